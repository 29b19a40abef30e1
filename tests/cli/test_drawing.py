"""A run's graph on a terminal and for Mermaid, from what the API gives."""

import io
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from textwrap import dedent
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.drawing import Drawing
from cli.mermaid import mermaid
from domain.graph import Edge, EdgeKind, Graph
from domain.layout import layout
from tests.cli.reading import followed

HOSTILE = '"]; x\x1b[2J\n[red]#<b>'


def graph(
    members: Mapping[str, str | Mapping[str, Any]], edges: Iterable[tuple[str, str] | Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what `GET /v1/runs/{id}/graph` gives: members with their status, or more of them; edges, or more."""
    given = {name: {"status": what} if isinstance(what, str) else what for name, what in members.items()}
    between = [
        {"kind": "blocking", "when": "completed"}
        | (dict(edge) if isinstance(edge, Mapping) else {"from": edge[0], "to": edge[1]})
        for edge in edges
    ]
    made = Graph.of([*members], [Edge(edge["from"], edge["to"], EdgeKind(edge["kind"])) for edge in between])
    ended = {name for name, what in given.items() if what["status"] not in ("waiting", "in_progress")}
    blocked, ready, places = made.blocked(ended), made.ready(ended), layout(made).places
    return {
        "members": [
            {
                "name": name, "kind": "task", "reason": None, "size": None, "counts": None, "duration_seconds": None,
                "ready": what["status"] == "waiting" and name in ready, "blockers": list(blocked.get(name, ())),
                "layer": places[name].layer, "x": places[name].x, "y": places[name].y,
            } | dict(what)
            for name, what in given.items()
        ],
        "edges": between,
        "layers": [list(layer) for layer in made.layers()],
    }  # fmt: skip


def shards(status: str, size: int | None, **counts: int) -> dict[str, Any]:
    """Return what is said of a fan-out."""
    return {"status": status, "kind": "fan_out", "size": size, "counts": counts}


DIAMOND = graph(
    {"lint": "completed", "test": "in_progress", "types": "failed", "build": "waiting"},
    [("lint", "test"), ("lint", "types"), ("test", "build"), ("types", "build")],
)
FAN_OUT = graph(
    {
        "split": "completed",
        "shard": shards("in_progress", 10, completed=2, failed=1, in_progress=7),
        "later": shards("waiting", None),
        "merge": "waiting",
        "clean": "skipped",
        "undo": "cancelled",
    },
    [
        ("split", "shard"),
        ("split", "later"),
        ("shard", "merge"),
        ("later", "merge"),
        ("split", "merge"),
        {"from": "shard", "to": "undo", "when": "failed"},
        {"from": "merge", "to": "clean", "when": {"pointer": "/size", "op": "ge", "value": 3}},
        {"from": "shard", "to": "later", "kind": "preferred_order"},
    ],
)


def drawn(given: Mapping[str, Any], *, width: int = 200, encoding: str = "utf-8", colours: bool = False) -> str:
    """Return what a terminal of that width gets."""
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding, newline="")
    Console(
        file=file, width=width, force_terminal=colours, color_system="standard" if colours else None, soft_wrap=True
    ).print(Drawing(given))
    file.flush()
    return written.getvalue().decode(encoding)


def trimmed(text: str) -> str:
    """Return a drawing as it stands in this file."""
    return dedent(text).lstrip("\n")


def test_a_diamond() -> None:
    """Forked and joined, with the mark of each status."""
    assert drawn(DIAMOND) == trimmed("""
        ✓ lint ─┬─▶ ● test ──┬─▶ ○ build
                └─▶ ✗ types ─┘
        """)


def test_a_fan_out_and_its_conditions() -> None:
    """Children are counted, also where nobody knows how many there will be; a long line has a row of its own; what
    an edge asks beside having completed is told below.
    """
    assert drawn(FAN_OUT) == trimmed("""
                 ┌─▶ ● shard 3/10 ───┬─▶ ! undo
        ✓ split ─┼─▶ ○ later 0/? ──┬─└─▶ ○ merge ──▶ - clean
                 └─────────────────┘
        shard → undo: failed
        merge → clean: /size ge 3
        shard → later: preferred
        """)


SOURCES = "abcd"
STEPS = ("get", "check", "clean", "load", "count")
PIPELINE = [
    *(("plan", f"get-{source}") for source in SOURCES),
    *((f"{step}-{source}", f"{then}-{source}") for source in SOURCES for step, then in pairwise(STEPS)),
    *((f"load-{source}", "pairs-1" if source in SOURCES[:2] else "pairs-2") for source in SOURCES),
    *((f"count-{source}", "audit") for source in SOURCES),
    *((pairs, "join") for pairs in ("pairs-1", "pairs-2")),
    *(("join", each) for each in ("model", "tables", "charts")),
    *((each, "report") for each in ("model", "tables", "charts", "audit", "plan")),
    ("report", "mail"),
]


def test_a_pipeline_of_thirty_members() -> None:
    """Four sources taken in alike, then compared: chains are straight, and every line can be followed."""
    names = dict.fromkeys(name for edge in PIPELINE for name in edge)
    assert len(names) == 30
    given = graph({name: "completed" if name.startswith("get") else "waiting" for name in names}, PIPELINE)
    assert drawn(given) == trimmed("""
                                                                      ┌─────▶ ○ count-a ─┐
                ┌─▶ ✓ get-a ──▶ ○ check-a ──▶ ○ clean-a ──▶ ○ load-a ─┴─┌───▶ ○ pairs-1 ─│─┐              ┌───────────────┐
                ├─▶ ✓ get-b ──▶ ○ check-b ──▶ ○ clean-b ──▶ ○ load-b ───┴───▶ ○ count-b ─┼─│───▶ ○ audit ─┘ ┌─▶ ○ model ──┤
        ○ plan ─┼─▶ ✓ get-c ──▶ ○ check-c ──▶ ○ clean-c ──▶ ○ load-c ─────┬─▶ ○ count-c ─┤ ├───▶ ○ join ────┼─▶ ○ tables ─┼─▶ ○ report ──▶ ○ mail
                ├─▶ ✓ get-d ──▶ ○ check-d ──▶ ○ clean-d ──▶ ○ load-d ───┬─└─▶ ○ pairs-2 ─│─┘ ┌────────────┐ └─▶ ○ charts ─┤
                └─────────────────────────────────────────────────────┐ └───▶ ○ count-d ─┘   │            └───────────────┘
                                                                      └──────────────────────┘
        """)  # noqa: E501


# The same, read back


@given(
    st.integers(1, 14).flatmap(
        lambda size: st.tuples(
            st.just(size), st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=24)
        )
    )
)
def test_the_picture_of_any_graph_has_its_edges(made: tuple[int, set[tuple[int, int]]]) -> None:
    """Each member is there once; from it, the lines lead a reader to its dependents and to nobody else."""
    size, pairs = made
    edges = {(f"m{source}", f"m{target}") for source, target in pairs if source < target}
    rows = drawn(graph({f"m{n}": "waiting" for n in range(size)}, sorted(edges)), width=10_000).splitlines()
    labels = {
        (row, found.start()): found[1] for row, text in enumerate(rows) for found in re.finditer(r"○ (m\d+)", text)
    }
    assert sorted(labels.values()) == sorted(f"m{n}" for n in range(size))
    read = set()
    for (row, place), name in labels.items():
        begin = place + len(f"○ {name} ")
        if rows[row][begin : begin + 1] == "─":
            read |= {(name, labels[end, arrow + 2]) for end, arrow in followed(rows, row, begin)}
    assert read == edges


# Where there is less


def test_a_terminal_without_unicode_gets_ascii() -> None:
    """Every mark and line has something in its place."""
    assert drawn(FAN_OUT, encoding="ascii") == trimmed("""
                 +-> * shard 3/10 ---+-> ! undo
        v split -+-> . later 0/? --+-+-> . merge --> - clean
                 +-----------------+
        shard > undo: failed
        merge > clean: /size ge 3
        shard > later: preferred
        """)


def test_a_terminal_with_colours_gets_them() -> None:
    """A mark has its status's colour; what waits for others is dim, and so is what was skipped."""
    text = drawn(DIAMOND, colours=True)
    assert "\x1b[32m✓\x1b[0m lint" in text
    assert "\x1b[36m●\x1b[0m test" in text
    assert "\x1b[2m build" in text
    assert "\x1b[2m" not in drawn(graph({"a": "waiting"}, []), colours=True)


def test_what_is_too_wide_becomes_a_list() -> None:
    """By layer, with what each still waits for, why it was skipped, or how long it took."""
    given = graph(
        {
            "lint": {"status": "completed", "duration_seconds": 3.25},
            "test": shards("in_progress", 3, failed=1) | {"duration_seconds": 61},
            "types": {"status": "skipped", "reason": "condition"},
            "build": "waiting",
        },
        [("lint", "test"), ("lint", "types"), ("test", "build"), ("types", "build")],
    )
    assert drawn(given, width=30) == trimmed("""
        1  ✓ lint      3.2 s
        2  ● test 1/3  1 min 1 s
           - types     condition
        3  ○ build     ← test
        """)
    assert "─" in drawn(given, width=60)


def test_a_line_of_a_list_is_never_wrapped() -> None:
    """What has no room is cut."""
    assert drawn(DIAMOND, width=20).splitlines()[-1] == "3  ○ build  ← test"
    assert drawn(DIAMOND, width=16).splitlines()[-1] == "3  ○ build  ← t…"


def test_a_large_layer_shows_what_matters() -> None:
    """Failures and what runs come first, then as many as a person reads; the others are counted by status."""
    statuses = {
        f"m{n}": "failed" if n == 990 else "in_progress" if n == 500 else "completed" if n < 400 else "waiting"
        for n in range(1_000)
    }
    given = graph(statuses | {"last": "waiting"}, [(name, "last") for name in statuses])
    lines = drawn(given).splitlines()
    assert lines[:3] == [" 1  ✗ m990"[1:], "   ● m500", "   ○ m400"]
    assert lines[20:] == [
        "   and 980 more: 580 waiting, 400 completed",
        "2  ○ last  ← m400, m401, m402 and 596 more",
    ]


def test_many_conditions_are_counted() -> None:
    """Twenty are told."""
    names = [f"m{n}" for n in range(30)]
    given = graph(dict.fromkeys(names, "waiting"), [{"from": "m0", "to": name, "when": "failed"} for name in names[1:]])
    assert drawn(given).splitlines()[-2:] == ["m0 → m20: failed", "and 9 more edges of this kind"]


def test_a_graph_without_members_is_drawn_as_nothing() -> None:
    """No line, no failure."""
    assert drawn(graph({}, [])) == ""


def test_what_somebody_else_wrote_moves_no_cursor() -> None:
    """Names and values reach the screen on one line, as text: no control character, no markup; long names are cut."""
    when = {"pointer": HOSTILE, "op": "eq", "value": HOSTILE}
    given = graph({HOSTILE: "waiting", "n" * 100: "waiting"}, [{"from": HOSTILE, "to": "n" * 100, "when": when}])
    for width in (200, 20):
        text = drawn(given, width=width)
        assert not re.search(r"[^\n -~○─▶→←…]", text)
        assert "[red]" in text
        assert f"{'n' * 31}…" in text or width == 20
    assert len(drawn(given).splitlines()) == 2


# For Mermaid


def test_a_flowchart_for_mermaid() -> None:
    """A node for each member by number, with the class of its status; conditions on edges, preferred ones dotted."""
    assert mermaid(FAN_OUT) == trimmed("""
        flowchart LR
            m1["split"]:::completed
            m2[["shard 3/10"]]:::in_progress
            m3[["later 0/#63;"]]:::waiting
            m4["merge"]:::waiting
            m5["clean"]:::skipped
            m6["undo"]:::cancelled
            m1 --> m2
            m1 --> m3
            m2 --> m4
            m3 --> m4
            m1 --> m4
            m2 -->|"failed"| m6
            m4 -->|"/size ge 3"| m5
            m2 -.-> m3
            classDef waiting fill:#f1f3f5,stroke:#868e96,color:#000
            classDef in_progress fill:#d0ebff,stroke:#1971c2,color:#000
            classDef completed fill:#d3f9d8,stroke:#2f9e44,color:#000
            classDef failed fill:#ffe3e3,stroke:#e03131,color:#000
            classDef cancelled fill:#fff3bf,stroke:#f08c00,color:#000
            classDef skipped fill:#ffffff,stroke:#ced4da,color:#000
        """)


def test_a_flowchart_shows_names_as_they_are() -> None:
    """What Mermaid or HTML would take for its own is written as entities."""
    text = mermaid(graph({HOSTILE: "waiting", "end": "waiting"}, [{"from": HOSTILE, "to": "end", "when": HOSTILE}]))
    assert 'm1["#34;#93;#59; x#92;x1b#91;2J #91;red#93;#35;#60;b#62;"]:::waiting' in text
    assert 'm2["end"]:::waiting' in text
    assert 'm1 -->|"#34;#93;#59; x#92;x1b#91;2J #91;red#93;#35;#60;b#62;"| m2' in text
    assert len(text.splitlines()) == 4 + 6
