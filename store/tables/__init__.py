"""The declarations of the tables, by noun; `store.models` has them all."""
