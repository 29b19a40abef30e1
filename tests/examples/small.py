"""Six small scenarios: three pieces of work and a sum of them; what the pieces do, and how it all has to end."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PIECE: Final = """
import json, os, pathlib, sys, time

given = json.loads(pathlib.Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())
number = given["item"]
while str(number) in given["waits"] and not pathlib.Path(given["waits"][str(number)]).exists():
    time.sleep(0.05)
if int(os.environ["TASKRUNNER_ATTEMPT"]) <= given["fails"].get(str(number), 0):
    sys.exit(f"{number} fails, as it was told")
pathlib.Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(number * number))
"""
TOTAL: Final = """
import json, os, pathlib

squares = json.loads(pathlib.Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["upstream"][0]["result"]
pathlib.Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps({"squares": squares, "total": sum(squares)}))
"""
DONE: Final = {"squares": [1, 4, 9], "total": 14}


@dataclass(frozen=True, kw_only=True)
class Small:
    """What the three pieces do, and how it all ends."""

    name: str
    fails: dict[str, int] = field(default_factory=dict)  # how many attempts of which piece
    waits: bool = False  # the third piece, until somebody opens a gate
    max_attempts: int = 1
    status: str = "completed"
    members: tuple[str, str] = ("completed", "completed")
    pieces: dict[str, tuple[str, int]] = field(default_factory=dict)  # end and attempts, where not completed at once

    def body(self, gate: Path) -> dict[str, Any]:
        """Return the run."""
        piece = {
            "command": [sys.executable, "-c", PIECE],
            "input": {"fails": self.fails, "waits": {"3": str(gate)} if self.waits else {}},
            "retry": {"max_attempts": self.max_attempts, "on": ["agent"], "backoff": 0.2},
        }
        return {
            "name": self.name,
            "members": [
                {"name": "piece", "task": piece, "fan_out": {"items": [1, 2, 3]}},
                {"name": "total", "task": {"command": [sys.executable, "-c", TOTAL]}},
            ],
            "edges": [{"from": "piece", "to": "total"}],
        }


FAILED: Final = ("failed", "skipped")
PARTIAL: Final = Small(name="partial completion does not aggregate early", waits=True)
SMALL: Final = (
    Small(name="all succeed"),
    Small(
        name="one fails and it propagates", fails={"2": 1}, status="failed", members=FAILED, pieces={"2": ("failed", 1)}
    ),
    PARTIAL,
    Small(name="retry then success", fails={"2": 1}, max_attempts=3, pieces={"2": ("completed", 2)}),
    Small(
        name="exhausted retries",
        fails={"2": 9},
        max_attempts=3,
        status="failed",
        members=FAILED,
        pieces={"2": ("failed", 3)},
    ),
)
