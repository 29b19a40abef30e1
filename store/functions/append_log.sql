-- Append raw output at a byte position: what is there already is trimmed off, a gap is refused, and beyond the bound
-- one note is stored and the rest is dropped. The workspace's lock puts parallel posts of one attempt in order; the
-- task is locked before it, as the flush does, so that the two never wait for each other.
-- Answers {verdict: appended|repeat|gap|truncated|stale|ended, next}: the position from which to go on.
CREATE OR REPLACE FUNCTION append_log(
  p_task text, p_workspace text, p_attempt int, p_position bigint, p_data bytea, p_limit bigint,
  p_turn int DEFAULT 1
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  current_attempt int;
  current_status text;
  last record;
  ends bigint;
  fresh bytea;
BEGIN
  SELECT attempt, status INTO current_attempt, current_status FROM tasks WHERE id = p_task FOR KEY SHARE;
  IF current_attempt <> p_attempt THEN
    RETURN '{"verdict": "stale"}';
  END IF;
  IF NOT FOUND OR current_status IN ('completed', 'failed', 'cancelled') THEN
    RETURN '{"verdict": "ended"}';
  END IF;
  UPDATE workspaces SET last_activity_at = clock_timestamp(),
    active_at = CASE WHEN length(p_data) > 0 THEN clock_timestamp() ELSE active_at END
  WHERE id = p_workspace;
  SELECT position + length(data) AS ends, truncated INTO last FROM log_chunks
  WHERE task_id = p_task AND attempt = p_attempt ORDER BY position DESC LIMIT 1;
  ends := coalesce(last.ends, 0);
  IF last.truncated THEN
    RETURN jsonb_build_object('verdict', 'truncated', 'next', p_position + length(p_data));
  ELSIF p_position > ends THEN
    RETURN jsonb_build_object('verdict', 'gap', 'next', ends);
  ELSIF p_position + length(p_data) <= ends THEN
    RETURN jsonb_build_object('verdict', 'repeat', 'next', ends);
  END IF;
  fresh := substring(p_data FROM (ends - p_position)::int + 1);
  IF ends + length(fresh) <= p_limit THEN
    INSERT INTO log_chunks (task_id, attempt, position, data, turn)
    VALUES (p_task, p_attempt, ends, fresh, p_turn);
    RETURN jsonb_build_object('verdict', 'appended', 'next', ends + length(fresh));
  END IF;
  IF ends < p_limit THEN
    INSERT INTO log_chunks (task_id, attempt, position, data, turn)
    VALUES (p_task, p_attempt, ends, substring(fresh FROM 1 FOR (p_limit - ends)::int), p_turn);
  END IF;
  INSERT INTO log_chunks (task_id, attempt, position, turn, data, truncated)
  VALUES (p_task, p_attempt, p_limit, p_turn,
          convert_to(format(E'\n[output truncated: it is longer than %s bytes]\n', p_limit), 'UTF8'), true);
  RETURN jsonb_build_object('verdict', 'truncated', 'next', p_position + length(p_data));
END $$;
