-- A node is not there any more, as `lost` or `gone`: tell every live attempt whose workspace is on it, and of a gone one
-- who waits for it.
-- Whoever reserves a workspace holds the node's lock meanwhile, so this sees it, or it sees the status written here.
CREATE OR REPLACE FUNCTION desert_node(p_node text, p_status text) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
  told int;
BEGIN
  UPDATE nodes SET status = p_status WHERE id = p_node;
  INSERT INTO outbox (kind, task_id, attempt, name, body)
  SELECT 'signal', l.task_id, l.attempt, 'node_lost',
         jsonb_build_object('node_id', p_node, 'workspace_id', l.tag, 'status', p_status)
  FROM ledger l
  JOIN tasks t ON t.id = l.task_id AND t.attempt = l.attempt
  WHERE l.kind = 'workspace' AND l.node_id = p_node AND l.state IN ('intent', 'created')
    AND t.status NOT IN ('completed', 'failed', 'cancelled');
  GET DIAGNOSTICS told = ROW_COUNT;
  IF p_status = 'gone' THEN
    PERFORM forsake_node(p_node);
  END IF;
  RETURN told;
END $$;
