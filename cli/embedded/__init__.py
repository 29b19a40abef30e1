"""PostgreSQL, Temporal, worker, node and API as processes of one supervisor."""
