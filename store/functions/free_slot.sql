-- Take back one of a node's slots, and grant what is free there. The caller has released the slot's entry.
-- A node that drains is gone with its last slot; one that was made is warm when it is idle. Locks: the node, then waiters that nobody else holds.
CREATE OR REPLACE FUNCTION free_slot(p_node text) RETURNS int
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE nodes SET used = used - 1,
    status = CASE WHEN used > 1 THEN status WHEN status = 'draining' THEN 'gone'
                  WHEN status = 'ready' AND provider IS NOT NULL THEN 'warm' ELSE status END,
    idle_since = CASE WHEN used = 1 THEN clock_timestamp() END
  WHERE id = p_node;
  RETURN grant_slots(p_node);
END $$;
