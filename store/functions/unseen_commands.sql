-- The commands of a run after the one that was seen last, in order, for its orchestrator: what each adds to the graph, but
-- not the bodies of the added tasks, which are rows by now. As many as one answer may carry, at least one; `more` says
-- that there are others, to be looked for again.
CREATE OR REPLACE FUNCTION unseen_commands(p_run text, p_seen int, p_limit int DEFAULT 1000000) RETURNS jsonb
LANGUAGE sql STABLE AS $$
  WITH unseen AS (
    SELECT n, body - 'append' AS command, plan,
           coalesce(sum(octet_length(body::text) + octet_length(plan::text))
                    OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_limit AS carried
    FROM run_commands WHERE run_id = p_run AND n > p_seen
  )
  SELECT jsonb_build_object(
    'commands', coalesce(
      jsonb_agg(jsonb_build_object('n', n, 'command', command, 'plan', plan) ORDER BY n) FILTER (WHERE carried), '[]'),
    'more', coalesce(bool_or(NOT carried), false))
  FROM unseen;
$$;
