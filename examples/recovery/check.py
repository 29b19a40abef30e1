"""Compare the digests with those of a clone of its own; fails if a page differs."""

import hashlib
import json
import os
import sys
from pathlib import Path

digests = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["upstream"][0]["result"]
wrong = [page for page, digest in digests.items() if hashlib.sha256(Path(page).read_bytes()).hexdigest() != digest]
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps({"checked": len(digests), "wrong": wrong}))
sys.exit(f"these differ: {', '.join(wrong)}" if wrong else 0)
