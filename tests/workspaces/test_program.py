"""The program: standard library only, Python 3.9 and later, by path."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from workspaces.launcher import PROGRAM

SOURCES = [PROGRAM, *sorted((PROGRAM.parent / "inside").glob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_is_python_3_9_and_imports_the_standard_library_only(path: Path) -> None:
    """The grammar of 3.9; every import is of the standard library or of this folder."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for name in names:
        assert name.partition(".")[0] in sys.stdlib_module_names or name.startswith("workspaces.inside")


@pytest.mark.parametrize("flags", [[], ["-I", "-S"]], ids=["plain", "isolated"])
def test_program_runs_by_path_from_anywhere(tmp_path: Path, flags: list[str]) -> None:
    """Without arguments it says how it is called; no module of ours shadows one of Python's."""
    done = subprocess.run(
        [sys.executable, *flags, str(PROGRAM)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "prepare|agent CONTROL SESSION" in done.stderr


# The main thread is told to stop while it holds a lock that whatever follows needs: it was about to wait.
STOPPED = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(PROGRAM.parents[1])!r})
from workspaces.inside import commands

stop, waiting = commands.Stop(), threading.Event()
stop.then = waiting.set
stop.on_sigterm()
with waiting._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.sigtimedwait([], 0.2)
waiting.wait(20)
print(stop.error["code"])
"""


def test_a_stop_waits_for_no_lock() -> None:
    """It is heard at any moment, and the main thread goes on."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
