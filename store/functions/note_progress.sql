-- Keep what a workspace says of its progress: the latest on its row, and at most one event a second in the log,
-- so that a chatty agent does not make the log grow without bound. What it says again is no news, whenever it comes.
-- Answers applied, stale or ended.
CREATE OR REPLACE FUNCTION note_progress(p_task text, p_workspace text, p_attempt int, p_body jsonb) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF r.attempt <> p_attempt THEN
    RETURN 'stale';
  END IF;
  IF NOT FOUND OR r.status IN ('completed', 'failed', 'cancelled') THEN
    RETURN 'ended';
  END IF;
  IF EXISTS (SELECT FROM workspaces WHERE id = p_workspace AND progress IS DISTINCT FROM p_body) THEN
    PERFORM append_events(r, jsonb_build_array(jsonb_build_object(
      'key', format('agent.progress:%s:%s', p_attempt, floor(extract(epoch FROM clock_timestamp()))),
      'type', 'agent.progress', 'ts', clock_timestamp(), 'attempt', p_attempt, 'source', 'workspace', 'step', r.step,
      'data', p_body, 'changes', '{}'::jsonb)));
  END IF;
  UPDATE workspaces SET progress = p_body, last_activity_at = clock_timestamp(), active_at = clock_timestamp()
  WHERE id = p_workspace;
  RETURN 'applied';
END $$;
