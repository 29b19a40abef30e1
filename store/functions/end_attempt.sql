-- The end of an attempt by somebody else than its workflow: a forced cancel, or the reconciler. It holds only for what
-- was observed: another attempt, another version or an end that was written meanwhile changes nothing.
-- What the attempt held is released by the Cleanup workflow, whose intent is committed here; with p_due the task goes
-- on with another attempt, unless somebody wants it cancelled.
-- Answers applied, superseded (look again) or ended; null for a task that was deleted.
CREATE OR REPLACE FUNCTION end_attempt(
  p_task text, p_attempt int, p_version bigint, p_events jsonb, p_due timestamptz
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
  verdict text := 'applied';
  before bigint;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  before := r.last_seq;
  IF r.attempt = p_attempt AND r.status IN ('completed', 'failed', 'cancelled') THEN
    verdict := 'ended';
  ELSIF r.attempt <> p_attempt OR r.version <> p_version
        OR (p_due IS NOT NULL AND r.cancel_requested_at IS NOT NULL) THEN
    verdict := 'superseded';
  ELSE
    r := append_events(r, p_events);
    INSERT INTO outbox (kind, task_id, attempt) VALUES ('cleanup', p_task, p_attempt);
    IF p_due IS NOT NULL THEN
      INSERT INTO outbox (kind, task_id, attempt, due_at) VALUES ('start', p_task, p_attempt + 1, p_due);
    END IF;
  END IF;
  RETURN jsonb_build_object(
    'verdict', verdict, 'status', r.status, 'cancel', r.cancel_requested_at IS NOT NULL,
    'appended', CASE WHEN r.last_seq > before THEN jsonb_build_array(before + 1, r.last_seq) END);
END $$;
