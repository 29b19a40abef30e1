-- Append events of another source than the workflow: same lock, same numbers, no fence.
-- Lock first, then read: a row that was read before it was locked would number events twice.
CREATE OR REPLACE FUNCTION append_to_log(p_task text, p_events jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  r := append_events(r, p_events);
  RETURN r.last_seq;
END $$;
