-- Note that somebody is there to hear nodes, and call those lost that were silent for p_lost_after although there was.
-- After a gap in the hearing longer than p_gap every node has the whole time again: nobody knows whether it was silent.
-- All by the database's clock; one that is set forward is a gap. Answers the nodes that are lost by this.
-- A node that has registered and does not report in is gone by then: nobody is to wait for it, and nothing is on it that
-- an attempt was not told of. One that is made has a budget of its own to come up.
-- Locks: the one row of `hearing`, then nodes that nobody else holds: those are looked at again in a moment.
CREATE OR REPLACE FUNCTION lose_nodes(p_lost_after interval, p_gap interval) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
  present timestamptz := clock_timestamp();
  heard_since timestamptz;
  n record;
BEGIN
  INSERT INTO hearing AS h (since, at) VALUES (present, present)
  ON CONFLICT ("of") DO UPDATE SET at = present, since = CASE
    WHEN h.at < present - p_gap OR h.since > present THEN present ELSE h.since END
  RETURNING since INTO heard_since;
  IF heard_since > present - p_lost_after THEN
    RETURN;
  END IF;
  FOR n IN
    SELECT id FROM nodes
    WHERE status = 'provisioning' AND provider IS NULL
      AND coalesce(last_heartbeat_at, created_at) < present - p_lost_after
    ORDER BY id FOR UPDATE SKIP LOCKED
  LOOP
    PERFORM desert_node(n.id, 'gone');
  END LOOP;
  FOR n IN
    SELECT id FROM nodes
    WHERE status IN ('ready', 'warm', 'draining')
      AND coalesce(last_heartbeat_at, created_at) < present - p_lost_after
    ORDER BY id FOR UPDATE SKIP LOCKED
  LOOP
    PERFORM desert_node(n.id, 'lost');
    RETURN NEXT n.id;
  END LOOP;
END $$;
