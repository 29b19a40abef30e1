-- Append events of another source than the run's orchestrator: same lock, same numbers, no fence.
CREATE OR REPLACE FUNCTION append_to_run_log(p_run text, p_events jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  r runs;
BEGIN
  SELECT * INTO r FROM runs WHERE id = p_run FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  r := append_run_events(r, p_events);
  RETURN r.last_seq;
END $$;
