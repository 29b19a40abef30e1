-- An event as the API shows it, on one line. As text: taken apart and put together again elsewhere it would cost more
-- than all the rest of a stream.
CREATE OR REPLACE FUNCTION event_envelope(t tasks, e events) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT json_build_object(
    'task_id', t.id, 'run_id', t.run_id, 'attempt', e.attempt, 'seq', e.seq,
    'ts', to_char(e.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'type', e.type, 'v', 1, 'source', e.source, 'step', e.step, 'data', e.data
  )::text
$$;
