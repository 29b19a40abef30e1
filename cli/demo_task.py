"""What the demo's task runs inside its workspace (the standard library only): a check, a result, a changed file."""

import json
import os
import subprocess
import sys
from pathlib import Path


def main(check: list[str]) -> int:
    """Run the check, write its exit code as the result, put the token of `input` into a file. Returns the code."""
    token = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["token"]
    print(f"checking with: {' '.join(check)}", flush=True)
    code = subprocess.run(check, check=False).returncode
    changed = Path("README.md")
    before = changed.read_text() if changed.exists() else ""
    changed.write_text(f"{before}\nThe demo was here with the token {token}.\n")
    Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps({"check": code, "changed": str(changed)}))
    print(f"{changed} now holds the token {token}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
