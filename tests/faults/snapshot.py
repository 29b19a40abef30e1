"""All that there is to see of a system at one moment: what the invariants are functions of."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from domain.events import Event, NewEvent

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Created:
    """A create, as the load generator was told: `task` is None where no answer came at all."""

    item: str
    task: str | None


@dataclass(frozen=True, kw_only=True)
class Told:
    """A callback and its answer. `nonce` stands in its body and nowhere else; `ours` is False for a forgery.

    `in_doubt`: an earlier try had no answer that stays, and may have been taken in all the same.
    """

    task: str
    workspace: str
    attempt: int
    kind: str
    turn: int
    nonce: str
    status: int
    result: str = ""
    ours: bool = True
    in_doubt: bool = False


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one reader was given of one log, page after page, in the order in which it came."""

    reader: str
    task: str
    seqs: tuple[int, ...]
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One workflow execution: `status` is the engine's word, `error` the type of the failure it ended with.

    `redone`: a workflow task failed or timed out, and was done again with what had come meanwhile. What its local
    activities had written by then stays in the log, beside what the redo wrote: the newer flush wins, and adds.
    """

    workflow_id: str
    status: str
    error: str | None = None
    problems: tuple[str, ...] = ()
    runs: int = 1
    redone: bool = False


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A line that a command wrote outside of everything: `what` is prepare, start, stop or double."""

    task: str
    attempt: int
    turn: int
    workspace: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a node has, by its disk, process table and engine; `buried` are ids that it will not make again."""

    node: str
    directories: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()
    buried: frozenset[str] = frozenset()
    processes: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How long something took after a fault was over, and how long it may take; seconds."""

    fault: str
    took: float
    within: float


@dataclass(frozen=True, kw_only=True)
class SeenRun:
    """A run: its row, its members' statuses by name, its own log by number, and what it is still to be told."""

    row: Row
    members: Mapping[str, str] = field(default_factory=dict)
    log: Sequence[tuple[int, NewEvent]] = ()
    intents: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Rows as the database has them, executions as the engine has them, and what people and commands were told."""

    created: Sequence[Created] = ()
    told: Sequence[Told] = ()
    reads: Sequence[Read] = ()
    tasks: Mapping[str, Row] = field(default_factory=dict)
    logs: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    ledger: Sequence[Row] = ()
    workspaces: Sequence[Row] = ()
    nodes: Sequence[Row] = ()
    waiters: Sequence[Row] = ()
    outbox: Sequence[Row] = ()
    inbox: Sequence[Row] = ()
    executions: Mapping[str, Execution] = field(default_factory=dict)
    effects: Sequence[Effect] = ()
    places: Sequence[Place] = ()
    recoveries: Sequence[Recovery] = ()
    created_runs: Sequence[str] = ()
    runs: Mapping[str, SeenRun] = field(default_factory=dict)
    orchestrators: Mapping[str, Execution] = field(default_factory=dict)
    # Of tasks and of runs.
    deleting: AbstractSet[str] = frozenset()
    deleted: AbstractSet[str] = frozenset()
