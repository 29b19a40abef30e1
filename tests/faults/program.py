"""One of our processes as an operator starts it, with failpoints that the harness arms: `program.py FOLDER ARGV…`."""

import sys
from pathlib import Path

from cli.main import main
from domain import failpoints
from tests.faults.points import Armoury

if __name__ == "__main__":
    _, folder, *arguments = sys.argv
    failpoints.arm(Armoury(Path(folder)).reached)
    sys.argv = ["taskrunner", *arguments]
    main()
