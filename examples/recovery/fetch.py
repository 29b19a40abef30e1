"""Get the list of pages from a mirror that is busy at first: the first two attempts fail, the third succeeds."""

import json
import os
import sys
from pathlib import Path

BUSY = 2  # attempts for which the mirror has no time

attempt = int(os.environ["TASKRUNNER_ATTEMPT"])
if attempt <= BUSY:
    sys.exit(f"attempt {attempt}: the mirror is busy")
pages = sorted(str(path) for path in Path("docs").rglob("*.md"))
print(f"attempt {attempt}: {len(pages)} pages")
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps({"pages": pages}))
