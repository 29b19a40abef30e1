-- Give the new ones of p_events their numbers, write them, and apply what they change to the run's row and its members.
-- The caller holds the row's lock. An event whose key the log has already changes nothing.
CREATE OR REPLACE FUNCTION append_run_events(r runs, p_events jsonb) RETURNS runs
LANGUAGE plpgsql AS $$
DECLARE
  e record;
  next_seq bigint := r.last_seq;
  old_attempt int := r.attempt;
BEGIN
  FOR e IN
    SELECT given.* FROM ROWS FROM (jsonb_to_recordset(p_events) AS (
      key text, type text, ts timestamptz, attempt int, source text, data jsonb, changes jsonb, member jsonb
    )) WITH ORDINALITY AS given (key, type, ts, attempt, source, data, changes, member, ord)
    WHERE NOT EXISTS (SELECT FROM run_events known WHERE known.run_id = r.id AND known.key = given.key)
    ORDER BY ord
  LOOP
    INSERT INTO run_events (run_id, seq, attempt, ts, type, source, data, key)
    VALUES (r.id, next_seq + 1, e.attempt, e.ts, e.type, e.source, e.data, e.key)
    ON CONFLICT (run_id, key) DO NOTHING;
    CONTINUE WHEN NOT FOUND;
    next_seq := next_seq + 1;
    IF e.changes <> '{}' THEN
      r := jsonb_populate_record(r, e.changes);
      -- The guard sees each step of the way, not only where a batch leads.
      UPDATE runs SET status = r.status WHERE id = r.id AND status <> r.status;
    END IF;
    IF e.member <> '{}' THEN
      UPDATE members m SET
        status = n.status, reason = n.reason, error = n.error, size = n.size,
        started_at = n.started_at, finished_at = n.finished_at
      FROM jsonb_populate_record(
        (SELECT old FROM members old WHERE old.run_id = r.id AND old.name = e.data ->> 'member'), e.member) n
      WHERE m.run_id = r.id AND m.name = e.data ->> 'member';
    END IF;
  END LOOP;
  r.last_seq := next_seq;
  r.updated_at := clock_timestamp();
  IF r.attempt <> old_attempt THEN
    r.version := 0;
  END IF;
  UPDATE runs SET
    status = r.status, outcome = r.outcome, attempt = r.attempt, paused = r.paused, pause_token = r.pause_token,
    pause_reason = r.pause_reason, paused_at = r.paused_at, superstep = r.superstep,
    state_versions = r.state_versions, error = r.error, version = r.version, last_seq = r.last_seq,
    updated_at = r.updated_at, started_at = r.started_at, finished_at = r.finished_at
  WHERE id = r.id;
  RETURN r;
END $$;
