"""Compute the SHA-256 of each page, slowly enough that somebody can kill the worker meanwhile."""

import hashlib
import json
import os
import time
from pathlib import Path

given = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())
digests = {}
for page in given["upstream"][0]["result"]["pages"]:
    digests[page] = hashlib.sha256(Path(page).read_bytes()).hexdigest()
    print(f"{digests[page]}  {page}", flush=True)
    time.sleep(given["seconds_per_page"])

sums = Path(os.environ["TASKRUNNER_ARTIFACTS_DIR"]) / "SHA256SUMS"
sums.write_text("".join(f"{digest}  {page}\n" for page, digest in digests.items()))
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(digests))
