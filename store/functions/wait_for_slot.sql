-- Enter the queue of waiters, then look at the nodes under their locks: a release either sees this waiter, or was
-- committed before and its slot is granted here. No grant can fall between.
CREATE OR REPLACE FUNCTION wait_for_slot(
  p_task text, p_attempt int, p_version bigint, p_events jsonb, p_priority int, p_labels jsonb
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  answer jsonb;
  r tasks;
  n record;
  granted_node text;
BEGIN
  answer := flush_task(p_task, p_attempt, p_version, p_events);
  IF answer IS NULL OR answer ->> 'verdict' NOT IN ('applied', 'repeat') THEN
    RETURN answer;
  END IF;
  SELECT * INTO r FROM tasks WHERE id = p_task;
  IF r.status <> 'queued' THEN
    RETURN answer;
  END IF;
  SELECT node_id INTO granted_node FROM ledger
  WHERE tag = format('slot-%s-a%s', p_task, p_attempt) AND state <> 'released';
  IF FOUND THEN
    RETURN answer || jsonb_build_object('granted', granted_node);
  END IF;
  -- One who waited for a node to come up waits for any slot now.
  INSERT INTO waiters (task_id, attempt, project, priority, labels)
  VALUES (p_task, p_attempt, r.project, p_priority, p_labels)
  ON CONFLICT (task_id, attempt) DO UPDATE SET granted = NULL;
  FOR n IN SELECT id FROM nodes WHERE status IN ('ready', 'warm') AND labels @> p_labels ORDER BY id LOOP
    PERFORM grant_slots(n.id);
  END LOOP;
  SELECT granted INTO granted_node FROM waiters WHERE task_id = p_task AND attempt = p_attempt;
  RETURN answer || jsonb_build_object('granted', granted_node);
END $$;
