"""Each promise is held by a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("reliability.md", "security.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_named_test_exists(page: str) -> None:
    """`file::test` names a function of that file."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert named
    missing = [(file, name) for file, name in named if name not in {"", *functions_of(ROOT / file)}]
    assert missing == []


def functions_of(file: Path) -> set[str]:
    """Return the names of a file's functions; a file that is not there has none, and is missing."""
    if not file.exists():
        raise FileNotFoundError(file)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
