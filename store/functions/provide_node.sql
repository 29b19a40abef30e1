-- Note that a node is to be made for those who ask for exactly these labels, if slots are missing: more of them are
-- queued and hold no slot than the policy allows, and than slots are coming up. Also those count who are just choosing,
-- and no waiters yet: of many that come at once each would else count itself alone. No more are counted than decide it.
-- Who decides this holds a lock of its own until it is committed, so that two who find one slot missing make one node.
-- The row is what the provider's call is found by, whatever becomes of the call. Answers its id, or null.
CREATE OR REPLACE FUNCTION provide_node(
  p_task text, p_node text, p_provider text, p_slots int, p_labels jsonb, p_most int, p_waiting int
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  coming int;
  enough int;
  wanting int;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('taskrunner.provide_node'));
  IF (SELECT count(*) FROM nodes WHERE provider IS NOT NULL AND status <> 'gone') >= p_most THEN
    RETURN NULL;
  END IF;
  SELECT coalesce(sum(greatest(slots - used, 0)), 0) INTO coming FROM nodes
  WHERE status = 'provisioning' AND serves(nodes, NULL, p_labels, 'local');
  enough := greatest(p_waiting, coming);
  SELECT count(*) + 1 INTO wanting FROM (
    SELECT FROM tasks t
    WHERE t.status = 'queued' AND t.id <> p_task AND t.cancel_requested_at IS NULL
      AND coalesce(t.spec -> 'node_labels', '{}') = p_labels AND coalesce(t.spec ->> 'provider', 'local') = 'local'
      AND NOT EXISTS (
        SELECT FROM ledger l WHERE l.tag = format('slot-%s-a%s', t.id, t.attempt) AND l.state <> 'released')
      AND NOT EXISTS (
        SELECT FROM outbox o WHERE o.task_id = t.id AND o.kind = 'start' AND o.due_at > clock_timestamp())
    LIMIT enough
  ) others;
  IF wanting <= enough THEN
    RETURN NULL;
  END IF;
  INSERT INTO nodes (id, status, slots, labels, provider) VALUES (p_node, 'provisioning', p_slots, p_labels, p_provider);
  RETURN p_node;
END $$;
