"""What a process tells of itself: metrics and traces. Composition decides whether anybody listens."""
