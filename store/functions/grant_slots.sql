-- Give a node's free slots to those who wait, in fair order: priority, then the project that holds least, among such the
-- one that took its last slot longest ago, then age. Without turns whoever came first would have every odd slot.
-- The ledger row, the grant and the signal that tells of it are one transaction with the release that freed the slot.
-- Which node serves whom is said by `serves`; who takes part, here, in `reserve_workspace`, `store/placement.py` and
-- `store/facts.py`.
-- Locks: the node, then waiters that nobody else holds. Nothing here waits for a task, whoever writes it meanwhile:
-- that one may be waiting for this node, or for its own waiter.
CREATE OR REPLACE FUNCTION grant_slots(p_node text) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
  n nodes;
  w waiters;
  granted_count int := 0;
BEGIN
  LOOP
    SELECT * INTO n FROM nodes WHERE id = p_node FOR UPDATE;
    EXIT WHEN NOT FOUND OR n.status NOT IN ('ready', 'warm') OR n.used >= n.slots;
    SELECT waiters.* INTO w
    FROM waiters
    JOIN tasks t ON t.id = waiters.task_id AND t.attempt = waiters.attempt
    LEFT JOIN (
      SELECT project, count(*) AS slots FROM ledger WHERE kind = 'slot' AND state <> 'released' GROUP BY project
    ) held ON held.project = waiters.project
    LEFT JOIN (
      SELECT p.project, (SELECT max(created_at) FROM ledger l WHERE l.kind = 'slot' AND l.project = p.project) AS taken_at
      FROM (SELECT DISTINCT project FROM waiters WHERE granted IS NULL) p
    ) turn ON turn.project = waiters.project
    WHERE granted IS NULL AND t.status = 'queued' AND t.cancel_requested_at IS NULL
      AND serves(n, pinned, waiters.labels, t.spec ->> 'provider')
    ORDER BY waiters.priority, coalesce(held.slots, 0), turn.taken_at NULLS FIRST, since, waiters.task_id
    LIMIT 1 FOR UPDATE OF waiters SKIP LOCKED;
    EXIT WHEN NOT FOUND;
    UPDATE waiters SET granted = n.id WHERE task_id = w.task_id AND attempt = w.attempt;
    UPDATE nodes SET used = used + 1, taken_at = clock_timestamp(), status = 'ready', idle_since = NULL WHERE id = n.id;
    INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)
    VALUES (format('slot-%s-a%s', w.task_id, w.attempt), 'slot', w.task_id, w.attempt, w.project, 'node', n.id, 'created')
    ON CONFLICT (tag) DO UPDATE SET state = 'created', node_id = excluded.node_id, updated_at = clock_timestamp();
    INSERT INTO outbox (kind, task_id, attempt, name, body)
    VALUES ('signal', w.task_id, w.attempt, 'slot_granted', jsonb_build_object('node_id', n.id));
    granted_count := granted_count + 1;
  END LOOP;
  RETURN granted_count;
END $$;
