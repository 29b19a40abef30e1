-- The last flush of an attempt. With p_due the task goes on with another attempt: its start intent is committed here.
-- What the attempt held is released whatever the verdict: a superseded attempt must not keep a slot,
-- nor one whose task was deleted. What could not be destroyed in time goes on in a Cleanup workflow.
CREATE OR REPLACE FUNCTION conclude_task(
  p_task text, p_attempt int, p_version bigint, p_events jsonb, p_destroyed boolean, p_due timestamptz
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  answer jsonb;
BEGIN
  IF NOT p_destroyed THEN
    INSERT INTO outbox (kind, task_id, attempt) VALUES ('cleanup', p_task, p_attempt);
  END IF;
  answer := flush_task(p_task, p_attempt, p_version, p_events);
  IF answer IS NULL THEN
    PERFORM release_attempt(p_task, p_attempt, p_destroyed);
    RETURN NULL;
  END IF;
  IF answer ->> 'verdict' = 'applied' AND p_due IS NOT NULL THEN
    INSERT INTO outbox (kind, task_id, attempt, due_at) VALUES ('start', p_task, p_attempt + 1, p_due);
  END IF;
  RETURN answer || jsonb_build_object('granted', release_attempt(p_task, p_attempt, p_destroyed));
END $$;
