-- Take a slot (if a node is named and none was granted before), write workspace and ledger intents, and flush:
-- one transaction under the task row's lock, at a live attempt and with a newer version. Called again it finds what
-- it did: a workflow task that was redone may ask for another node than the one that the first try reserved, and
-- must go where its workspace is. `workspace_id` is null when the slot was lost; then nothing is written at all.
-- A free slot that somebody else waits for is lost, too: it is granted, and not taken. So is a slot that was granted on
-- a node that is not there any more; whoever notes that takes the node's lock, and either sees this workspace or is seen.
-- An attempt that goes on in a kept workspace finds that there, without a slot, and takes one on its node.
-- Locks: task, own waiter, nodes in order of their id.
CREATE OR REPLACE FUNCTION reserve_workspace(
  p_task text, p_attempt int, p_version bigint, p_events jsonb,
  p_workspace text, p_visit int, p_provider text, p_node text
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
  slot text := format('slot-%s-a%s', p_task, p_attempt);
  held text;
  known boolean;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF r.attempt = p_attempt AND p_version > r.version AND r.status NOT IN ('completed', 'failed', 'cancelled') THEN
    -- Whoever grants holds the waiter: only now does the ledger say for certain what this attempt holds.
    PERFORM FROM waiters WHERE task_id = p_task AND attempt = p_attempt FOR UPDATE;
    SELECT node_id INTO held FROM ledger WHERE tag = slot AND state <> 'released';
    known := EXISTS (SELECT FROM workspaces WHERE id = p_workspace);
    IF p_node IS NOT NULL THEN
      PERFORM FROM nodes WHERE id IN (p_node, held) ORDER BY id FOR UPDATE;
      IF NOT known AND EXISTS (SELECT FROM nodes WHERE id = held AND status IN ('lost', 'gone')) THEN
        UPDATE ledger SET state = 'released', updated_at = clock_timestamp() WHERE tag = slot;
        PERFORM free_slot(held);
        held := NULL;
      END IF;
    END IF;
    IF p_node IS NOT NULL AND p_node IS DISTINCT FROM held AND (held IS NULL OR NOT known) THEN
      UPDATE nodes n SET used = used + 1, taken_at = clock_timestamp(), status = 'ready', idle_since = NULL
      WHERE id = p_node AND used < slots AND status IN ('ready', 'warm') AND NOT EXISTS (
        SELECT FROM waiters w JOIN tasks t ON t.id = w.task_id AND t.attempt = w.attempt
        WHERE w.granted IS NULL AND w.task_id <> p_task AND t.status = 'queued' AND t.cancel_requested_at IS NULL
          AND serves(n, w.pinned, w.labels, t.spec ->> 'provider'));
      IF NOT FOUND THEN
        RETURN jsonb_build_object('verdict', 'repeat', 'status', r.status,
                                  'cancel', r.cancel_requested_at IS NOT NULL, 'workspace_id', NULL);
      END IF;
      INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)
      VALUES (slot, 'slot', p_task, p_attempt, r.project, 'node', p_node, 'created')
      ON CONFLICT (tag) DO UPDATE SET state = 'created', node_id = excluded.node_id, updated_at = clock_timestamp();
      IF held IS NOT NULL THEN
        PERFORM free_slot(held);
      END IF;
    END IF;
    IF NOT known THEN
      INSERT INTO workspaces (id, task_id, project, attempt, visit, provider, node_id, status)
      VALUES (p_workspace, p_task, r.project, p_attempt, p_visit, p_provider, p_node, 'reserved');
      INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)
      VALUES (p_workspace, 'workspace', p_task, p_attempt, r.project, p_provider, p_node, 'intent');
    END IF;
    DELETE FROM waiters WHERE task_id = p_task AND attempt = p_attempt;
  END IF;
  RETURN flush_task(p_task, p_attempt, p_version, p_events) || coalesce(
    (SELECT jsonb_build_object('workspace_id', id, 'node_id', node_id) FROM workspaces WHERE id = p_workspace),
    '{"workspace_id": null}');
END $$;
