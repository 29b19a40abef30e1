-- Give the new ones of p_events their numbers, write them, and apply what they change to the row.
-- The caller holds the row's lock: numbers come from the locked row, so they have no gap and no repeat.
-- What the project's webhooks want to hear of is committed with it, as their deliveries.
-- A terminal event says the outcome and how long the attempt lasted, whoever writes it; one that never began: 0 s.
-- An event whose key the log has already is not written again, and does not change the row again.
CREATE OR REPLACE FUNCTION append_events(r tasks, p_events jsonb) RETURNS tasks
LANGUAGE plpgsql AS $$
DECLARE
  delta jsonb;
  added int;
  statuses text[];
  types text[];
  passed text;
  old_attempt int := r.attempt;
  old_status text := r.status;
BEGIN
  WITH given AS (
    SELECT DISTINCT ON (e.key) e.*
    FROM ROWS FROM (jsonb_to_recordset(p_events) AS (
      key text, type text, ts timestamptz, attempt int, source text, step text, data jsonb, changes jsonb
    )) WITH ORDINALITY AS e (key, type, ts, attempt, source, step, data, changes, ord)
    ORDER BY e.key, e.ord
  ), incoming AS (
    SELECT given.*, r.last_seq + row_number() OVER (ORDER BY ord) AS seq
    FROM given
    WHERE NOT EXISTS (SELECT FROM events known WHERE known.task_id = r.id AND known.key = given.key)
  ), written AS (
    INSERT INTO events (task_id, seq, attempt, ts, type, source, step, data, key)
    SELECT r.id, seq, attempt, ts, type, source, step,
           CASE WHEN type IN ('task.completed', 'task.failed', 'task.cancelled')
             THEN jsonb_build_object('outcome', split_part(type, '.', 2), 'duration_seconds', (
               SELECT extract(epoch FROM greatest(incoming.ts - min(began.ts), interval '0')) FROM events began
               WHERE began.task_id = r.id AND began.attempt = incoming.attempt AND began.type = 'attempt.started'
             )) || data
             ELSE data END,
           key
    FROM incoming
  )
  SELECT count(*), coalesce(jsonb_merge(changes ORDER BY seq), '{}'),
         array_agg(changes ->> 'status' ORDER BY seq) FILTER (WHERE changes ? 'status'), array_agg(type)
  INTO added, delta, statuses, types
  FROM incoming;

  -- A batch may pass through several statuses; the guard sees each step of the way, not only where it leads.
  FOREACH passed IN ARRAY coalesce(statuses[:cardinality(statuses) - 1], '{}') LOOP
    UPDATE tasks SET status = passed WHERE id = r.id;
  END LOOP;
  r := jsonb_populate_record(r, delta);
  r.last_seq := r.last_seq + added;
  r.updated_at := clock_timestamp();
  IF r.attempt <> old_attempt THEN
    r.version := 0;
  END IF;
  UPDATE tasks SET
    status = r.status, step = r.step, step_started_at = r.step_started_at, outcome = r.outcome,
    attempt = r.attempt, paused = r.paused, pause_token = r.pause_token, pause_reason = r.pause_reason,
    paused_at = r.paused_at, paused_until = r.paused_until, paused_seconds = r.paused_seconds, exhausted = r.exhausted,
    result = r.result, error = r.error, workspace_id = r.workspace_id, node_id = r.node_id,
    version = r.version, last_seq = r.last_seq, updated_at = r.updated_at,
    started_at = r.started_at, finished_at = r.finished_at
  WHERE id = r.id;

  -- The run that it belongs to hears of a task's end, however it came about: nobody asks for it.
  IF r.run_id IS NOT NULL AND r.status <> old_status AND r.status IN ('completed', 'failed', 'cancelled') THEN
    INSERT INTO run_intents (run_id, kind, attempt, body)
    VALUES (r.run_id, 'ended', 0, jsonb_build_object(
      'member', r.member, 'item', r.item, 'outcome', r.status, 'attempt', r.attempt));
  END IF;

  -- A webhook that is being deleted just now is waited for, and gets nothing any more.
  IF EXISTS (SELECT FROM webhooks w WHERE w.project = r.project AND w.disabled_at IS NULL AND w.events && types) THEN
    INSERT INTO deliveries (id, webhook_id, task_id, seq)
    SELECT new_uuid7(), w.id, r.id, e.seq
    FROM (SELECT id, events FROM webhooks WHERE project = r.project AND disabled_at IS NULL FOR KEY SHARE) w
    JOIN events e ON e.task_id = r.id AND e.seq > r.last_seq - added AND e.seq <= r.last_seq AND e.type = ANY(w.events);
  END IF;
  RETURN r;
END $$;
