-- Release all that an attempt holds, as the ledger knows it (a redone workflow task may hold more than its workflow
-- remembers), and grant each freed slot to the next waiter. Called again it finds nothing left to do.
-- While a workspace could not be destroyed its entry stays open for the reaper, and so does its slot.
CREATE OR REPLACE FUNCTION release_attempt(p_task text, p_attempt int, p_destroyed boolean) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
  freed text;
  granted_count int := 0;
BEGIN
  DELETE FROM waiters WHERE task_id = p_task AND attempt = p_attempt;
  IF NOT p_destroyed THEN
    UPDATE workspaces SET status = 'stopping', updated_at = clock_timestamp()
    WHERE task_id = p_task AND attempt = p_attempt AND status NOT IN ('released', 'retained', 'stopping');
    RETURN 0;
  END IF;
  UPDATE workspaces SET status = 'released', updated_at = clock_timestamp()
  WHERE task_id = p_task AND attempt = p_attempt AND status NOT IN ('released', 'retained');
  FOR freed IN
    UPDATE ledger SET state = 'released', updated_at = clock_timestamp()
    WHERE task_id = p_task AND attempt = p_attempt AND state IN ('intent', 'created')
    RETURNING CASE kind WHEN 'slot' THEN node_id END
  LOOP
    CONTINUE WHEN freed IS NULL;
    granted_count := granted_count + free_slot(freed);
  END LOOP;
  RETURN granted_count;
END $$;
