"""Durable decisions: the TaskRunner, the ports that it calls, and the gateway that starts it."""
