-- One batch of a run's events, fenced by (attempt, version) as a task's are: applies only if newer, and the run has not
-- ended. The answer brings what the row asks for, and the commands after the one that was seen last.
CREATE OR REPLACE FUNCTION flush_run(p_run text, p_attempt int, p_version bigint, p_events jsonb, p_seen int) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r runs;
  verdict text;
BEGIN
  SELECT * INTO r FROM runs WHERE id = p_run FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF r.attempt <> p_attempt THEN
    verdict := 'superseded';
  ELSIF r.status IN ('completed', 'failed', 'cancelled') AND p_version <> r.version THEN
    verdict := 'ended';
  ELSIF p_version <= r.version THEN
    verdict := 'repeat';
  ELSE
    verdict := 'applied';
    r.version := p_version;
    IF p_events @> '[{"type": "run.paused"}]' THEN
      -- Who resumed or paused meanwhile has the last word: see flush_task.
      p_events := (
        SELECT coalesce(jsonb_agg(e ORDER BY ord), '[]') FROM jsonb_array_elements(p_events) WITH ORDINALITY AS _ (e, ord)
        WHERE e ->> 'type' <> 'run.paused' OR e -> 'data' ->> 'token' = r.pause_token
           OR (r.pause_token IS NULL AND e -> 'data' ? 'breakpoint'));
    END IF;
    r := append_run_events(r, p_events);
  END IF;
  RETURN jsonb_build_object(
    'verdict', verdict,
    'status', r.status,
    'cancel', r.cancel_requested_at IS NOT NULL,
    'pause', r.pause_token,
    'pause_reason', r.pause_reason,
    'breakpoints', r.breakpoints) || unseen_commands(r.id, p_seen);
END $$;
