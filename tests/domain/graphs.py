"""Small graphs, and what is printed of them where names hash otherwise."""

import subprocess
import sys
from pathlib import Path

from domain.graph import Edge, EdgeKind, Graph

ROOT = Path(__file__).parents[2]
PREFERRED = EdgeKind.PREFERRED_ORDER


def edges(*pairs: str, kind: EdgeKind = EdgeKind.BLOCKING) -> list[Edge]:
    """Return `edges("ab", "bc")` as a → b, b → c."""
    return [Edge(pair[0], pair[1], kind) for pair in pairs]


def diamond() -> Graph:
    """Return a → b, c → d, and e for itself, which would rather come before a."""
    return Graph.of("dcbae", [*edges("ac", "ab", "bd", "cd"), Edge("e", "a", PREFERRED)])


def printed(script: str) -> set[bytes]:
    """Return what two interpreters print that hash names differently: one thing, if no order of a set matters."""
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, cwd=ROOT, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert b"" not in found
    return found
