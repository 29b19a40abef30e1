"""Runs as they are drawn in tests, and what is said of those that are none."""

from typing import Any

import pytest

from domain.graph import EdgeKind
from domain.plan import BadRun
from domain.run_spec import Member, RunEdge
from domain.spec import TaskSpec

TASK = TaskSpec.model_validate({"command": ["true"]})


def some(*names: str, **more: dict[str, Any]) -> list[Member]:
    """Return members by name, and those that have more than a task."""
    plain = [Member(name=name, task=TASK) for name in names]
    return plain + [
        Member.model_validate({"name": name, "task": {"command": ["true"]}} | m) for name, m in more.items()
    ]


def edge(drawn: str, when: Any = None, kind: EdgeKind = EdgeKind.BLOCKING) -> RunEdge:
    """Return an edge, drawn as `a>b`."""
    source, _, target = drawn.partition(">")
    return RunEdge.model_validate({"from": source, "to": target, "kind": kind, "when": when})


def drawn(edges: str) -> list[RunEdge]:
    """Return edges, drawn as `a>b b>c:failed`."""
    return [edge(each.partition(":")[0], each.partition(":")[2] or None) for each in edges.split()]


def refusal(make: Any) -> tuple[str, str, str]:
    """Return what is said of a run that is none."""
    with pytest.raises(BadRun) as bad:
        make()
    return bad.value.code, bad.value.field, str(bad.value)
