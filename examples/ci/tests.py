"""Run the tests of one file, this task's item; its JUnit report is left as an artifact, its counts are the result."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

path = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["item"]
report = Path(os.environ["TASKRUNNER_ARTIFACTS_DIR"]) / f"{Path(path).stem}.xml"
code = subprocess.call([sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", path])
suite = ET.parse(report).getroot().find("testsuite") if report.exists() else None  # noqa: S314 - pytest wrote it
if suite is not None:
    result = {"file": path, **{name: int(suite.attrib[name]) for name in ("tests", "failures", "errors")}}
    Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))
sys.exit(code)
