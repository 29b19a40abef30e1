-- Enter the queue of waiters, then look at the nodes under their locks: a release or a report either sees this waiter,
-- or was committed before and its slot is granted here. No grant can fall between.
-- Who awaits the report of a node that is coming up waits in the same queue: any slot that is free before will do.
-- The age of a waiter is its attempt's: since it was queued, and not since it came this far.
-- An attempt that holds a slot already (from a workflow task that was redone) is told so and does not wait.
-- Locks: task, own waiter, nodes in order of their id.
CREATE OR REPLACE FUNCTION wait_for_slot(
  p_task text, p_attempt int, p_version bigint, p_events jsonb, p_priority int, p_labels jsonb,
  p_pinned text, p_awaits text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  answer jsonb;
  r tasks;
  n record;
  held text;
BEGIN
  answer := flush_task(p_task, p_attempt, p_version, p_events);
  IF answer IS NULL OR answer ->> 'verdict' NOT IN ('applied', 'repeat') THEN
    RETURN answer;
  END IF;
  -- Whoever grants holds the waiter: only now does the ledger say for certain what this attempt holds.
  PERFORM FROM waiters WHERE task_id = p_task AND attempt = p_attempt FOR UPDATE;
  SELECT node_id INTO held FROM ledger WHERE tag = format('slot-%s-a%s', p_task, p_attempt) AND state <> 'released';
  SELECT * INTO r FROM tasks WHERE id = p_task;
  IF held IS NULL AND r.status = 'queued' THEN
    INSERT INTO waiters (task_id, attempt, project, priority, labels, pinned, awaits, since)
    VALUES (p_task, p_attempt, r.project, p_priority, p_labels, p_pinned, p_awaits, coalesce(
      (SELECT ts FROM events WHERE task_id = p_task AND attempt = p_attempt AND type = 'task.queued' ORDER BY seq LIMIT 1),
      clock_timestamp()))
    -- It has waited before: the place is its own, what it asks for is new.
    ON CONFLICT (task_id, attempt) DO UPDATE
    SET granted = NULL, priority = excluded.priority, labels = excluded.labels, pinned = excluded.pinned,
        awaits = excluded.awaits;
    PERFORM FROM nodes
    WHERE status IN ('ready', 'warm', 'provisioning') AND serves(nodes, p_pinned, p_labels, r.spec ->> 'provider')
    ORDER BY id FOR UPDATE;
    FOR n IN
      SELECT id FROM nodes
      WHERE status IN ('ready', 'warm') AND serves(nodes, p_pinned, p_labels, r.spec ->> 'provider')
      ORDER BY id = r.spec ->> 'preferred_node' DESC NULLS LAST,
               greatest(coalesce(load, 0), used * 1.0 / greatest(slots, 1)), taken_at NULLS FIRST, id
    LOOP
      PERFORM grant_slots(n.id);
    END LOOP;
    SELECT granted INTO held FROM waiters WHERE task_id = p_task AND attempt = p_attempt;
  END IF;
  RETURN answer || jsonb_build_object('granted', held, 'reported_in', EXISTS (
    SELECT FROM nodes WHERE id = p_awaits AND status IN ('ready', 'warm')), 'gone', p_awaits IS NOT NULL AND NOT EXISTS (
    SELECT FROM nodes WHERE id = p_awaits AND status <> 'gone'));
END $$;
