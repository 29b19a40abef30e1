"""What a task costs: whole tasks through the HTTP API, beside the least that Temporal and PostgreSQL could cost."""
