"""Say how each part of the pipeline ended, whatever that was."""

import json
import os
from pathlib import Path

upstream = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["upstream"]
outcomes = {each["member"]: each["outcome"] for each in upstream}
tests = next(each["result"] for each in upstream if each["member"] == "test") or []
passed = sum(part["tests"] - part["failures"] - part["errors"] for part in tests if part)

lines = [f"{member:<8}{outcome}" for member, outcome in outcomes.items()]
print("\n".join([*lines, f"{passed} tests passed"]))
result = {"outcomes": outcomes, "passed": passed}
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))
