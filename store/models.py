"""The tables, all of them. The migrations make the schema; `alembic check` proves that they and these models agree.

Whoever needs a table takes it from here: so `Base.metadata` is whole, whoever asks for it.
"""

from store.tables.access import ApiKey, Idempotency, Session
from store.tables.base import Base
from store.tables.events import EventRow, RunEvent
from store.tables.feeds import Fed, FedRun, FeedEntry, FeedHorizon, FeedRow
from store.tables.files import Artifact, Attachment, Blob, BlobChunk, LogChunk
from store.tables.outbox import Callback, Outbox, OutboxKind
from store.tables.placement import Hearing, Ledger, LedgerKind, LedgerState, Node, Waiter, Workspace
from store.tables.runs import OPEN_RUN, Run, RunCommandRow, RunIntent, RunIntentKind, RunMember
from store.tables.tasks import OPEN, Task
from store.tables.upkeep import Sweep, Transition
from store.tables.webhooks import Delivery, DeliveryState, Webhook

__all__ = [
    "OPEN",
    "OPEN_RUN",
    "ApiKey",
    "Artifact",
    "Attachment",
    "Base",
    "Blob",
    "BlobChunk",
    "Callback",
    "Delivery",
    "DeliveryState",
    "EventRow",
    "Fed",
    "FedRun",
    "FeedEntry",
    "FeedHorizon",
    "FeedRow",
    "Hearing",
    "Idempotency",
    "Ledger",
    "LedgerKind",
    "LedgerState",
    "LogChunk",
    "Node",
    "Outbox",
    "OutboxKind",
    "Run",
    "RunCommandRow",
    "RunEvent",
    "RunIntent",
    "RunIntentKind",
    "RunMember",
    "Session",
    "Sweep",
    "Task",
    "Transition",
    "Waiter",
    "Webhook",
    "Workspace",
]
