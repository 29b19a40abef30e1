-- One batch of an attempt's events, fenced by (attempt, version): applies only if newer and the attempt has not ended.
-- Of an ended attempt only the write that ended it is a repeat: an older one may be a redo's, which saw another end.
-- Lock first, then read: a snapshot from before the lock would number events twice. The lock leaves the key alone:
-- whoever grants this task a slot refers to it from the outbox, and holds what this task's release waits for.
CREATE OR REPLACE FUNCTION flush_task(p_task text, p_attempt int, p_version bigint, p_events jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r tasks;
  verdict text;
  before bigint;
BEGIN
  SELECT * INTO r FROM tasks WHERE id = p_task FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  before := r.last_seq;
  IF r.attempt <> p_attempt THEN
    verdict := 'superseded';
  ELSIF r.status IN ('completed', 'failed', 'cancelled') AND p_version <> r.version THEN
    verdict := 'ended';
  ELSIF p_version <= r.version THEN
    verdict := 'repeat';
  ELSE
    verdict := 'applied';
    r.version := p_version;
    IF p_events @> '[{"type": "task.paused"}]' THEN
      -- A hold counts only if the row asks for this very one, or, at a breakpoint, for no other: who resumed or paused
      -- meanwhile has the last word, and the answer says it.
      p_events := (
        SELECT coalesce(jsonb_agg(e ORDER BY ord), '[]') FROM jsonb_array_elements(p_events) WITH ORDINALITY AS _ (e, ord)
        WHERE e ->> 'type' <> 'task.paused' OR e -> 'data' ->> 'token' = r.pause_token
           OR (r.pause_token IS NULL AND e -> 'data' ? 'breakpoint'));
    END IF;
    r := append_events(r, p_events);
    -- The workspace and its ledger entry follow what the log now says of them.
    IF p_events @> '[{"type": "step.finished", "step": "workspace_dispatch"}]' THEN
      UPDATE workspaces SET status = 'dispatched', updated_at = clock_timestamp()
      WHERE id = r.workspace_id AND status = 'reserved';
      UPDATE ledger SET state = 'created', updated_at = clock_timestamp()
      WHERE tag = r.workspace_id AND state = 'intent';
    END IF;
    IF p_events @> '[{"type": "workspace.ready"}]' THEN
      UPDATE workspaces SET status = 'ready', updated_at = clock_timestamp()
      WHERE id = r.workspace_id AND status = 'dispatched';
    END IF;
    IF p_events @> '[{"type": "workspace.failed"}]' THEN
      UPDATE workspaces SET status = 'failed', updated_at = clock_timestamp()
      WHERE id = r.workspace_id AND status IN ('reserved', 'dispatched', 'ready');
    END IF;
  END IF;
  RETURN jsonb_build_object(
    'verdict', verdict,
    'status', r.status,
    'appended', CASE WHEN r.last_seq > before THEN jsonb_build_array(before + 1, r.last_seq) END,
    'cancel', r.cancel_requested_at IS NOT NULL,
    'pause', r.pause_token,
    'pause_reason', r.pause_reason,
    'breakpoints', r.breakpoints,
    'result', CASE verdict WHEN 'ended' THEN r.result END,
    'error', CASE verdict WHEN 'ended' THEN r.error END,
    'inbox', coalesce((
      SELECT jsonb_agg(c.body || jsonb_build_object('kind', c.kind, 'turn', c.turn, 'workspace_id', c.workspace_id)
                       ORDER BY c.received_at)
      FROM callbacks c
      WHERE c.workspace_id = r.workspace_id AND c.attempt = p_attempt AND c.delivered_at IS NULL), '[]'));
END $$;
