-- A new UUIDv7 as text (RFC 9562, 5.7), as `domain.ids.new_id` makes them: PostgreSQL has its own from version 18 on only.
CREATE OR REPLACE FUNCTION new_uuid7() RETURNS text
LANGUAGE sql VOLATILE AS $$
  SELECT substr(ms, 1, 8) || '-' || substr(ms, 9) || '-7' || substr(gen_random_uuid()::text, 16)
  FROM (SELECT lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS ms) AS now
$$;
