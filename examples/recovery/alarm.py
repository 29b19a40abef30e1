"""Say what went wrong; runs only if it did."""

import json
import os
from pathlib import Path

for each in json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["upstream"]:
    print(f"{each['member']} {each['outcome']}")
