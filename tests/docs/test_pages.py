"""The pages that are made from code are the code's."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs.generate import PAGES, rows, span
from domain.containers import Containers
from domain.policy import Policy
from settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_not_drifted(name: str) -> None:
    """The checked-in page is what `make docs` would write now."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_setting_is_explained() -> None:
    """Each row has a name, a type, a default and a meaning."""
    groups: list[tuple[type[BaseModel], str]] = [(Settings, PREFIX)]
    groups += [(Containers, "containers")]
    groups += [(type(getattr(Policy(), name)), name) for name in Policy.model_fields if name != "callback_url"]
    for model, prefix in groups:
        for row in rows(model, prefix):
            assert all(row), row


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *(page for part in ("docs", "deploy", "examples") for page in (ROOT / part).rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_no_link_leads_nowhere(page: Path) -> None:
    """Every relative link of every page is a file of the repository."""
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_every_drawn_graph_is_one_that_was_printed(page: Path) -> None:
    """What Mermaid draws of a run stands in a console block of the page too, so it is what the tool prints."""
    text = page.read_text(encoding="utf-8")
    printed = "".join(re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for graph in re.findall(r"^```mermaid\n(flowchart.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert graph in printed


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    """A promise names the test that holds it as `tests/file.py::test_name`."""
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_decision_is_linked_from_the_rules() -> None:
    """AGENTS.md names each page of docs/adr; each page is numbered, without a gap."""
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    rules = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    assert [page.name for page in pages if f"docs/adr/{page.name}" not in rules] == []


def test_the_map_is_complete() -> None:
    """AGENTS.md names every folder and every file at the top of the repository."""
    rules = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    hidden = {".git", ".venv", ".taskrunner", "build", "dist", "__pycache__", ".hypothesis", "uv.lock"}
    top = [path.name for path in ROOT.iterdir() if not path.name.endswith(("cache", ".egg-info"))]
    assert [name for name in top if name not in hidden and f"`{name}" not in rules] == []


def test_durations_are_said_as_people_say_them() -> None:
    """Hours and minutes where they are whole."""
    budgets = Policy().budgets
    spans = [budgets.running, budgets.cleanup, budgets.attachment_transfer]
    assert [span(value) for value in spans] == ["8 h", "10 min", "60 s"]
