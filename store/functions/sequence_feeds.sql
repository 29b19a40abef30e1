-- Number the events that were committed since the last call for the feeds that they belong to: their project's, and
-- their run's. Events are of a task's log or of a run's.
-- Nothing that is committed late is skipped: every event carries the transaction that wrote it, and what is not visible
-- here was written by one that is not below the oldest still running, where the next call begins. Within a log the
-- order is that of `seq`, whichever transaction began first; of one transaction a run's come before its tasks'.
-- Whoever is second waits, and finds nothing left to do.
-- Returns whether more is left than was looked at.
CREATE OR REPLACE FUNCTION sequence_feeds(p_most int) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  low bigint;
  oldest bigint;
  more boolean;
  reached bigint;
BEGIN
  SELECT xid INTO low FROM feed_horizon FOR UPDATE;
  oldest := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  IF low > oldest THEN
    -- Restored from a dump: this server counts its transactions anew.
    UPDATE events SET xid = 0 WHERE xid >= oldest;
    UPDATE run_events SET xid = 0 WHERE xid >= oldest;
    low := 0;
  END IF;
  WITH recent AS (
    SELECT task_id, xid FROM events WHERE xid >= low ORDER BY xid FETCH FIRST p_most ROWS WITH TIES
  ), recent_runs AS (
    SELECT run_id, xid FROM run_events WHERE xid >= low ORDER BY xid FETCH FIRST p_most ROWS WITH TIES
  ), due AS (
    SELECT e.task_id, NULL AS run_id, e.seq, t.project, t.run_id AS of_run,
           max(e.xid) OVER (PARTITION BY e.task_id ORDER BY e.seq) AS place
    FROM (SELECT DISTINCT task_id FROM recent) AS grown
    JOIN tasks t ON t.id = grown.task_id
    LEFT JOIN fed f ON f.task_id = t.id
    JOIN events e ON e.task_id = t.id AND e.seq > coalesce(f.seq, 0)
    UNION ALL
    SELECT NULL, e.run_id, e.seq, r.project, r.id, max(e.xid) OVER (PARTITION BY e.run_id ORDER BY e.seq)
    FROM (SELECT DISTINCT run_id FROM recent_runs) AS grown
    JOIN runs r ON r.id = grown.run_id
    LEFT JOIN fed_runs f ON f.run_id = r.id
    JOIN run_events e ON e.run_id = r.id AND e.seq > coalesce(f.seq, 0)
  ), fanned AS (
    SELECT 'project:' || project AS feed, due.* FROM due
    UNION ALL
    SELECT 'run:' || of_run, due.* FROM due WHERE of_run IS NOT NULL
  ), heads AS (
    INSERT INTO feeds (id, last_seq) SELECT feed, count(*) FROM fanned GROUP BY feed
    ON CONFLICT (id) DO UPDATE SET last_seq = feeds.last_seq + excluded.last_seq
    RETURNING id, last_seq
  ), numbered AS (
    INSERT INTO feed_entries (feed, seq, task_id, task_seq, run_id, run_seq)
    SELECT h.id,
           h.last_seq + 1 - row_number() OVER (
             PARTITION BY h.id
             ORDER BY place DESC, task_id IS NOT NULL DESC, coalesce(task_id, run_id) DESC, fanned.seq DESC),
           task_id, CASE WHEN task_id IS NOT NULL THEN fanned.seq END,
           run_id, CASE WHEN run_id IS NOT NULL THEN fanned.seq END
    FROM fanned JOIN heads h ON h.id = fanned.feed
  ), noted AS (
    INSERT INTO fed (task_id, seq) SELECT task_id, max(seq) FROM due WHERE task_id IS NOT NULL GROUP BY task_id
    ON CONFLICT (task_id) DO UPDATE SET seq = excluded.seq
  ), noted_runs AS (
    INSERT INTO fed_runs (run_id, seq) SELECT run_id, max(seq) FROM due WHERE run_id IS NOT NULL GROUP BY run_id
    ON CONFLICT (run_id) DO UPDATE SET seq = excluded.seq
  )
  SELECT bool_or(count >= p_most), min(last + 1) FILTER (WHERE count >= p_most)
  INTO more, reached
  FROM (
    SELECT count(*), max(xid) AS last FROM recent UNION ALL SELECT count(*), max(xid) FROM recent_runs
  ) AS looked_at;
  UPDATE feed_horizon SET xid = least(oldest, reached);
  RETURN more;
END $$;
