-- Take back one of a node's slots, and grant what is free there. The caller has released the slot's entry.
-- A node that drains is gone with its last slot. Locks: the node, then waiters that nobody else holds.
CREATE OR REPLACE FUNCTION free_slot(p_node text) RETURNS int
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE nodes SET used = used - 1,
    status = CASE WHEN status = 'draining' AND used = 1 THEN 'gone' ELSE status END
  WHERE id = p_node;
  RETURN grant_slots(p_node);
END $$;
