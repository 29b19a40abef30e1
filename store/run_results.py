"""What the members of a run have come to, as others of it need it: upstreams' results, conditions, lists of items."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.conditions import Miss, holds, resolve
from domain.errors import GUIDANCE, Category, TaskError
from domain.names import NodeId, RunId
from domain.run import Findings, Questions
from domain.run_spec import ITEM_LIMIT, FanOut, RunEdge

_ENDS: Final = text("""
SELECT m.name, m.status, m.fan_out IS NOT NULL AS fanned, t.id AS task, t.result, t.node_id
FROM members m LEFT JOIN tasks t ON t.run_id = m.run_id AND t.member = m.name
WHERE m.run_id = :run AND m.name = ANY(:names)
ORDER BY m.name, t.item
""")
_EDGES: Final = text("SELECT edges FROM runs WHERE id = :run")
_ASKED: Final = text("""
SELECT (ord - 1)::int AS number, e AS edge
FROM runs r, jsonb_array_elements(r.edges) WITH ORDINALITY AS _ (e, ord)
WHERE r.id = :run AND ord - 1 = ANY(:edges)
""")
_FANS: Final = text("SELECT name, fan_out FROM members WHERE run_id = :run AND name = ANY(:names)")
_ALL_EDGES: Final = TypeAdapter(list[RunEdge])


@dataclass(slots=True)
class End:
    """How a member ended: a fan-out's result is the list of its children's, and so are its nodes."""

    outcome: str
    result: Any
    nodes: Sequence[NodeId | None]


async def ends(connection: AsyncConnection, run: RunId, names: Iterable[str]) -> dict[str, End]:
    """Return how these members of a run ended."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    found: dict[str, End] = {}
    for row in await connection.execute(_ENDS, {"run": run, "names": wanted}):
        end = found.setdefault(row.name, End(row.status, [] if row.fanned else None, []))
        if not row.fanned:
            end.result = row.result
        elif row.task is not None:  # one that was skipped, or had no items, has no children
            end.result.append(row.result)
        end.nodes = [*end.nodes, row.node_id]
    return found


async def edges(connection: AsyncConnection, run: RunId) -> list[RunEdge]:
    """Return a run's edges, in the order in which its plan has them."""
    return _ALL_EDGES.validate_python((await connection.execute(_EDGES, {"run": run})).scalar_one())


async def find_out(connection: AsyncConnection, questions: Questions) -> Findings:
    """Say of edges whether their conditions hold, and of fan-outs how many items their upstream's result has."""
    findings = Findings()
    if questions.edges:
        rows = await connection.execute(_ASKED, {"run": questions.run_id, "edges": questions.edges})
        asked = {row.number: RunEdge.model_validate(row.edge) for row in rows}
        known = await ends(connection, questions.run_id, (edge.from_ for edge in asked.values()))
        findings.edges = {number: _holds(edge, known[edge.from_].result) for number, edge in asked.items()}
    if questions.sizes:
        rows = await connection.execute(_FANS, {"run": questions.run_id, "names": questions.sizes})
        fans = {row.name: FanOut.model_validate(row.fan_out) for row in rows}
        sources = {name: fan.source for name, fan in fans.items() if fan.source is not None}
        known = await ends(connection, questions.run_id, (member for member, _ in sources.values()))
        for name, (member, pointer) in sources.items():
            items = listed(known[member].result, pointer)
            if isinstance(items, str):
                findings.errors[name] = _no_items(name, f"{member}#{pointer}", items)
            else:
                findings.sizes[name] = len(items)
    return findings


def listed(document: Any, pointer: str) -> list[Any] | str:
    """Return the list at a place of a result, or what is there instead."""
    try:
        found = resolve(pointer, document)
    except Miss:
        return "there is nothing"
    if not isinstance(found, list):
        return f"there is no list but {type(found).__name__}"
    return found if len(found) <= ITEM_LIMIT else f"there are {len(found)} items; at most {ITEM_LIMIT} may be"


def _holds(edge: RunEdge, result: Any) -> bool:
    condition = edge.when
    if condition is None or isinstance(condition, str):
        raise AssertionError("unreachable: only edges with a condition are asked about")
    return holds(condition.pointer, condition.op, condition.value, result)


def _no_items(name: str, place: str, found: str) -> TaskError:
    return TaskError(
        code="no_items",
        category=Category.INPUT,
        message=f"{name} fans out over {place}, and {found}.",
        guidance=GUIDANCE[Category.INPUT],
        context={"member": name},
    )
