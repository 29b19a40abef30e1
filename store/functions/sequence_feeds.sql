-- Number the events that were committed since the last call for the feeds that they belong to: their project's.
-- Nothing that is committed late is skipped: every event carries the transaction that wrote it, and what is not visible
-- here was written by one that is not below the oldest still running, where the next call begins. Within a task the
-- order is that of `seq`, whichever transaction began first. Whoever is second waits, and finds nothing left to do.
-- Returns whether more is left than was looked at.
CREATE OR REPLACE FUNCTION sequence_feeds(p_most int) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  low bigint;
  oldest bigint;
  looked_at int;
  reached bigint;
BEGIN
  SELECT xid INTO low FROM feed_horizon FOR UPDATE;
  oldest := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  IF low > oldest THEN
    -- Restored from a dump: this server counts its transactions anew.
    UPDATE events SET xid = 0 WHERE xid >= oldest;
    low := 0;
  END IF;
  WITH recent AS (
    SELECT task_id, xid FROM events WHERE xid >= low ORDER BY xid FETCH FIRST p_most ROWS WITH TIES
  ), due AS (
    SELECT e.task_id, e.seq, 'project:' || t.project AS feed,
           max(e.xid) OVER (PARTITION BY e.task_id ORDER BY e.seq) AS place
    FROM (SELECT DISTINCT task_id FROM recent) AS grown
    JOIN tasks t ON t.id = grown.task_id
    LEFT JOIN fed f ON f.task_id = t.id
    JOIN events e ON e.task_id = t.id AND e.seq > coalesce(f.seq, 0)
  ), heads AS (
    INSERT INTO feeds (id, last_seq) SELECT feed, count(*) FROM due GROUP BY feed
    ON CONFLICT (id) DO UPDATE SET last_seq = feeds.last_seq + excluded.last_seq
    RETURNING id, last_seq
  ), numbered AS (
    INSERT INTO feed_entries (feed, seq, task_id, task_seq)
    SELECT h.id, h.last_seq + 1 - row_number() OVER (PARTITION BY h.id ORDER BY place DESC, task_id DESC, due.seq DESC),
           task_id, due.seq
    FROM due JOIN heads h ON h.id = due.feed
  ), noted AS (
    INSERT INTO fed (task_id, seq) SELECT task_id, max(seq) FROM due GROUP BY task_id
    ON CONFLICT (task_id) DO UPDATE SET seq = excluded.seq
  )
  SELECT count(*), max(xid) INTO looked_at, reached FROM recent;
  UPDATE feed_horizon SET xid = least(oldest, CASE WHEN looked_at >= p_most THEN reached + 1 ELSE oldest END);
  RETURN looked_at >= p_most;
END $$;
