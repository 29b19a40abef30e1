-- The last flush of an attempt. With p_due the task goes on with another attempt: its start intent is committed here.
-- What the attempt held is released whatever the verdict: a superseded attempt must not keep a slot,
-- nor one whose task was deleted. What could not be destroyed in time goes on in a Cleanup workflow.
-- A workspace whose files the node has kept is retained if this end is the task's; if somebody else has ended the
-- attempt, nobody goes on in it, and it is still to be destroyed.
CREATE OR REPLACE FUNCTION conclude_task(
  p_task text, p_attempt int, p_version bigint, p_events jsonb, p_destroyed boolean, p_due timestamptz,
  p_kept text, p_keep_for interval
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  answer jsonb;
  settled boolean := p_destroyed;
  r tasks;
BEGIN
  IF p_due IS NOT NULL THEN
    -- A cancel that came before this write prevents the next attempt: nothing is written, and the attempt ends anew.
    SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
    IF r.attempt = p_attempt AND r.status NOT IN ('completed', 'failed', 'cancelled')
       AND r.cancel_requested_at IS NOT NULL THEN
      RETURN jsonb_build_object('verdict', 'repeat', 'status', r.status, 'cancel', true, 'withheld', true, 'granted', 0);
    END IF;
  END IF;
  answer := flush_task(p_task, p_attempt, p_version, p_events);
  IF p_kept IS NOT NULL AND answer ->> 'verdict' = 'applied' THEN
    UPDATE ledger SET state = 'retained', retained_until = clock_timestamp() + p_keep_for,
                      updated_at = clock_timestamp()
    WHERE tag = p_kept AND task_id = p_task AND attempt = p_attempt AND state IN ('intent', 'created');
    UPDATE workspaces SET status = 'stopping' WHERE id = p_kept AND status IN ('reserved', 'dispatched');
    UPDATE workspaces SET status = 'retained', updated_at = clock_timestamp()
    WHERE id = p_kept AND status IN ('ready', 'failed', 'stopping');
  ELSIF p_kept IS NOT NULL THEN
    settled := false;
  END IF;
  IF NOT settled THEN
    INSERT INTO outbox (kind, task_id, attempt) VALUES ('cleanup', p_task, p_attempt);
  END IF;
  IF answer IS NULL THEN
    PERFORM release_attempt(p_task, p_attempt, settled);
    DELETE FROM ledger WHERE task_id = p_task AND attempt = p_attempt AND state = 'released';
    RETURN NULL;
  END IF;
  IF answer ->> 'verdict' = 'applied' AND p_due IS NOT NULL THEN
    INSERT INTO outbox (kind, task_id, attempt, due_at) VALUES ('start', p_task, p_attempt + 1, p_due);
  END IF;
  RETURN answer || jsonb_build_object(
    'granted', release_attempt(p_task, p_attempt, settled),
    'in_run', EXISTS (SELECT FROM tasks WHERE id = p_task AND run_id IS NOT NULL));
END $$;
