-- A run's own event as the API shows it, on one line; see event_envelope.
CREATE OR REPLACE FUNCTION run_event_envelope(r runs, e run_events) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT json_build_object(
    'task_id', NULL, 'run_id', r.id, 'attempt', e.attempt, 'seq', e.seq,
    'ts', to_char(e.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'type', e.type, 'v', 1, 'source', e.source, 'step', NULL, 'data', e.data
  )::text
$$;
