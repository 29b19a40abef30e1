"""The graph of a run, for whoever draws it: members with their state and their places, edges, what is ready."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.times import rfc3339
from domain.graph import Edge, EdgeKind, Graph
from domain.layout import layout
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.plan import when
from domain.progress import Progress, letters
from domain.run import EdgePlan, Plan, RunState
from domain.run_spec import Condition, OnFailure, Outcome, RunEdge
from store.run_graph import Rows

# Of ways that are known to last as long, the one with most members is shown, though nothing is known of those.
_NEXT_TO_NOTHING: Final = 1e-6


class GraphMember(BaseModel):
    """A member: how far it is, and where it stands in a picture, in columns from the left and rows from the top."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["task", "fan_out"]
    status: MemberStatus
    reason: str | None = Field(description="Why it was skipped.")
    task_id: str | None = Field(description="Of a task that was made; those of a fan-out are in the list of tasks.")
    size: int | None = Field(description="How many children a fan-out has, as soon as that is known.")
    counts: dict[TaskStatus, int] = Field(description="How many children that were made are in which status.")
    layer: int
    x: float
    y: float
    ready: bool
    blockers: list[str]
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None


class GraphEdge(BaseModel):
    """An edge, with what it asks of the end of `from`; null for one that never waits."""

    model_config = ConfigDict(extra="forbid")

    from_: str = Field(alias="from")
    to: str
    kind: EdgeKind
    when: Outcome | Condition | None


class CriticalPathOut(BaseModel):
    """The way through the graph that lasts longest, by what was measured, else by what is expected."""

    members: list[str]
    seconds: float


class GraphOut(BaseModel):
    """A run's graph."""

    model_config = ConfigDict(title="RunGraph", extra="forbid")

    run_id: str
    status: RunStatus
    members: list[GraphMember]
    edges: list[GraphEdge]
    roots: list[str]
    leaves: list[str]
    ready: list[str] = Field(description="What could begin now, in order, if there were room and nothing held the run.")
    blocked: dict[str, list[str]] = Field(description="What waits, with the upstreams that have not ended.")
    topological_order: list[str]
    critical_path: CriticalPathOut
    layers: list[list[str]]


class Picture:
    """A run's graph, made of its rows. Nothing here waits: it may be done beside the loop."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._edges = [RunEdge.model_validate(edge) for edge in rows.run["edges"]]
        self._graph = Graph.of(
            [member["name"] for member in rows.members],
            (Edge(edge.from_, edge.to, edge.kind) for edge in self._edges),
        )
        places = {name: place for place, name in enumerate(self._graph.members)}
        edges = [EdgePlan(source=places[e.from_], target=places[e.to], when=when(e)) for e in self._edges]
        statuses = letters(MemberStatus(member["status"]) for member in rows.members)
        # What is ready is what the orchestrator itself would find, had it room for all.
        self._progress = Progress(
            Plan(names=list(places), edges=edges),
            RunState(members=statuses, cancelling=rows.run["cancel_requested_at"] is not None),
            on_failure=OnFailure(rows.run["on_failure"]),
        )

    def questions(self) -> list[int]:
        """Return the edges of which only a result can tell whether their condition holds."""
        return list(self._progress.questions())

    def represent(self, holds: Mapping[int, bool]) -> dict[str, Any]:
        """Return the graph as JSON values, given the answers to the questions."""
        for number, answer in holds.items():
            self._progress.judge(number, holds=answer)
        graph, rows = self._graph, self._rows
        moves = self._progress.moves()
        begun = {*moves.fans, *(part.member for part in moves.starts)}
        ready = [name for name in graph.topological_order() if self._progress.places[name] in begun]
        ended = {member["name"] for member in rows.members if MemberStatus(member["status"]).ended}
        waiting = {member["name"] for member in rows.members if member["status"] == MemberStatus.WAITING}
        blocked = {name: list(by) for name, by in graph.blocked(ended).items() if name in waiting}
        return {
            "run_id": rows.run["id"],
            "status": rows.run["status"],
            "members": self._members(set(ready), blocked),
            "edges": [self._edge(edge) for edge in self._edges],
            "roots": list(graph.roots()),
            "leaves": list(graph.leaves()),
            "ready": ready,
            "blocked": blocked,
            "topological_order": list(graph.topological_order()),
            "critical_path": self._critical_path(),
            "layers": [list(layer) for layer in graph.layers()],
        }

    def _members(self, ready: set[str], blocked: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        made = layout(self._graph)
        shown = []
        for member in self._rows.members:
            name, place = member["name"], made.places[member["name"]]
            shown.append(
                {
                    "name": name,
                    "kind": "fan_out" if member["fanned"] else "task",
                    **{key: member[key] for key in ("status", "reason", "task_id", "size")},
                    "counts": self._rows.children.get(name, {}),
                    "layer": place.layer,
                    "x": place.x,
                    "y": place.y,
                    "ready": name in ready,
                    "blockers": blocked.get(name, []),
                    "started_at": rfc3339(member["started_at"]),
                    "finished_at": rfc3339(member["finished_at"]),
                    "duration_seconds": _seconds(member),
                }
            )
        return shown

    def _edge(self, edge: RunEdge) -> dict[str, Any]:
        asked: Any = edge.when.model_dump(mode="json") if isinstance(edge.when, Condition) else edge.when
        if asked is None and edge.kind is EdgeKind.BLOCKING:
            asked = Outcome.COMPLETED
        return {"from": edge.from_, "to": edge.to, "kind": edge.kind, "when": asked}

    def _critical_path(self) -> dict[str, Any]:
        known = {
            member["name"]: seconds
            for member in self._rows.members
            if (seconds := _first(_seconds(member), member["expected_seconds"])) is not None
        }
        weights = {name: known.get(name, 0.0) + _NEXT_TO_NOTHING for name in self._graph.members}
        path = self._graph.critical_path(weights).members
        return {"members": list(path), "seconds": sum(known.get(name, 0.0) for name in path)}


def _seconds(member: Mapping[str, Any]) -> float | None:
    """Return how long a member took that has begun and ended."""
    if member["started_at"] is None or member["finished_at"] is None:
        return None
    return float((member["finished_at"] - member["started_at"]).total_seconds())


def _first(measured: float | None, expected: float | None) -> float | None:
    return expected if measured is None else measured
