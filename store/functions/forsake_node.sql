-- A node is gone: tell those who wait for it to report in. Whoever begins to wait holds its lock meanwhile, or finds it
-- gone.
CREATE OR REPLACE FUNCTION forsake_node(p_node text) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO outbox (kind, task_id, attempt, name, body)
  SELECT 'signal', task_id, attempt, 'node_lost', jsonb_build_object('node_id', p_node, 'status', 'gone')
  FROM waiters WHERE awaits = p_node AND granted IS NULL
$$;
