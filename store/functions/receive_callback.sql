-- Take in what a workspace tells, once per workspace, attempt, kind and turn. The row's lock orders it against flushes
-- and against other callbacks, so `ready` after `failed` is decided here and not by who was signalled first.
-- Answers: applied (new), repeat (the same again, not delivered yet), duplicate (the same again, delivered),
-- conflict, already_failed, stale, ended.
CREATE OR REPLACE FUNCTION receive_callback(
  p_task text, p_workspace text, p_attempt int, p_kind text, p_turn int, p_body jsonb, p_digest bytea, p_lease interval
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
  known callbacks;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN 'ended';
  END IF;
  IF r.attempt <> p_attempt OR r.workspace_id <> p_workspace THEN
    -- The terminal event stays the last of a log: who follows a task stops there.
    IF r.status NOT IN ('completed', 'failed', 'cancelled') THEN
      PERFORM append_events(r, jsonb_build_array(jsonb_build_object(
        'key', format('callback.stale:%s:%s', p_attempt, p_kind), 'type', 'callback.stale', 'ts', clock_timestamp(),
        'attempt', p_attempt, 'source', 'workspace', 'step', NULL,
        'data', jsonb_build_object('kind', p_kind, 'current_attempt', r.attempt), 'changes', '{}'::jsonb)));
    END IF;
    RETURN 'stale';
  END IF;
  IF r.status IN ('completed', 'failed', 'cancelled') THEN
    RETURN 'ended';
  END IF;
  IF p_kind IN ('ready', 'finished') AND EXISTS (
    SELECT FROM callbacks WHERE workspace_id = p_workspace AND attempt = p_attempt AND kind = 'failed'
  ) THEN
    RETURN 'already_failed';
  END IF;
  INSERT INTO callbacks (workspace_id, attempt, kind, turn, task_id, body, digest, due_at)
  VALUES (p_workspace, p_attempt, p_kind, p_turn, p_task, p_body, p_digest, clock_timestamp() + p_lease)
  ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN 'applied';
  END IF;
  SELECT * INTO known FROM callbacks
  WHERE workspace_id = p_workspace AND attempt = p_attempt AND kind = p_kind AND turn = p_turn;
  IF known.digest <> p_digest THEN
    RETURN 'conflict';
  END IF;
  PERFORM append_events(r, jsonb_build_array(jsonb_build_object(
    'key', format('callback.duplicate:%s:%s', p_attempt, p_kind), 'type', 'callback.duplicate', 'ts', clock_timestamp(),
    'attempt', p_attempt, 'source', 'workspace', 'step', r.step,
    'data', jsonb_build_object('kind', p_kind, 'turn', p_turn), 'changes', '{}'::jsonb)));
  IF known.delivered_at IS NOT NULL THEN
    RETURN 'duplicate';
  END IF;
  UPDATE callbacks SET due_at = clock_timestamp() + p_lease
  WHERE workspace_id = p_workspace AND attempt = p_attempt AND kind = p_kind AND turn = p_turn;
  RETURN 'repeat';
END $$;
