-- Whether a node may be given to who asks for these labels and this provider of workspaces. Who is pinned to a node, where
-- its workspace was kept, has that one and no other, whatever is known of it now.
CREATE OR REPLACE FUNCTION serves(n nodes, p_pinned text, p_labels jsonb, p_provider text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN p_pinned IS NULL
    THEN n.labels @> p_labels AND coalesce(n.facts -> 'providers', '["local"]') ? coalesce(p_provider, 'local')
    ELSE n.id = p_pinned END;
$$;
