-- Take a slot (if a node is named and none was granted before), write workspace and ledger intents, and flush:
-- one transaction under the task row's lock, at a live attempt. Called again it finds the same workspace.
-- `workspace_id` is null when the slot was lost to another, or another node's slot was granted meanwhile (selection
-- will find it); then nothing is written, and the attempt waits for no slot any more.
CREATE OR REPLACE FUNCTION reserve_workspace(
  p_task text, p_attempt int, p_version bigint, p_events jsonb,
  p_workspace text, p_visit int, p_provider text, p_node text
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
  slot text := format('slot-%s-a%s', p_task, p_attempt);
  held text;
  lost boolean := false;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF r.attempt = p_attempt AND r.status NOT IN ('completed', 'failed', 'cancelled')
     AND NOT EXISTS (SELECT FROM workspaces WHERE id = p_workspace) THEN
    -- Out of the queue first: whoever grants to this attempt meanwhile has committed by the next line.
    DELETE FROM waiters WHERE task_id = p_task AND attempt = p_attempt;
    SELECT node_id INTO held FROM ledger WHERE tag = slot AND state <> 'released';
    IF held IS NULL AND p_node IS NOT NULL THEN
      UPDATE nodes SET used = used + 1 WHERE id = p_node AND used < slots AND status IN ('ready', 'warm');
      lost := NOT FOUND;
    ELSE
      lost := held IS DISTINCT FROM p_node;
    END IF;
    IF lost THEN
      RETURN jsonb_build_object('verdict', 'repeat', 'status', r.status,
                                'cancel', r.cancel_requested_at IS NOT NULL, 'workspace_id', NULL);
    END IF;
    IF held IS NULL AND p_node IS NOT NULL THEN
      INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)
      VALUES (slot, 'slot', p_task, p_attempt, r.project, 'node', p_node, 'created')
      ON CONFLICT (tag) DO UPDATE SET state = 'created', node_id = excluded.node_id, updated_at = clock_timestamp();
    END IF;
    INSERT INTO workspaces (id, task_id, project, attempt, visit, provider, node_id, status)
    VALUES (p_workspace, p_task, r.project, p_attempt, p_visit, p_provider, p_node, 'reserved');
    INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)
    VALUES (p_workspace, 'workspace', p_task, p_attempt, r.project, p_provider, p_node, 'intent');
  END IF;
  RETURN flush_task(p_task, p_attempt, p_version, p_events) || jsonb_build_object('workspace_id', p_workspace);
END $$;
