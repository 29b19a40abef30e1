"""The files of the examples hold together; `test_scenarios` runs them."""

from pathlib import Path

import pytest

from domain.plan import planned
from domain.run_spec import RunSpec
from tests.examples.runs import EXAMPLES, PLACEHOLDER, example

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.yaml"))


def test_each_example_is_on_the_list() -> None:
    """The page of the examples leads to each folder, and each has a page of its own."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(NAMES) == 4
    for name in NAMES:
        assert f"({name}/README.md)" in page


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_accepted_and_names_files_that_are_there(name: str) -> None:
    """`run.yaml` passes the door as it lies there; the scripts that its commands name are those of the folder."""
    run = RunSpec.model_validate(example(name, f"file://{PLACEHOLDER}"))
    assert len(planned(run.members, run.edges).edges) == len(run.edges)
    commands = [member.task.command or [] for member in run.members]
    named = {word for command in commands for word in command if word.startswith("examples/")}
    there = {str(path.relative_to(EXAMPLES.parent)) for path in (EXAMPLES / name).glob("*.py")}
    imported = {path for path in there if Path(path).stem == "softmax"}
    assert named == there - imported
