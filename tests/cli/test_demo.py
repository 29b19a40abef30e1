import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import demo, demo_task


@pytest.mark.parametrize("code", [0, 3])
def test_the_task_runs_the_check_and_changes_a_file_with_its_token(tmp_path: Path, code: int) -> None:
    """Exit code and result are the check's, and the file ends with the token, whatever the check says."""
    (tmp_path / "README.md").write_text("# Read me\n")
    (tmp_path / "input.json").write_text(json.dumps({"token": "abc123"}))
    done = subprocess.run(
        [sys.executable, "-c", Path(demo_task.__file__).read_text(), sys.executable, "-c", f"raise SystemExit({code})"],
        cwd=tmp_path,
        env={
            **os.environ,
            "TASKRUNNER_INPUT_FILE": str(tmp_path / "input.json"),
            "TASKRUNNER_RESULT_FILE": str(tmp_path / "result.json"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert json.loads((tmp_path / "result.json").read_text()) == {"check": code, "changed": "README.md"}
    assert "abc123" in (tmp_path / "README.md").read_text()
    assert "abc123" in done.stdout


def test_the_demo_knows_the_checkout_that_it_lies_in() -> None:
    """The source is this checkout's file URL at its HEAD."""
    here = Path(demo.__file__).parents[1]
    head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert demo._checkout() == {"url": here.as_uri(), "ref": head.stdout.strip()}
