"""List the files of orders: the items of the next member."""

import json
import os
from pathlib import Path

ORDERS = Path(__file__).parent / "orders"

files = sorted(path.name for path in ORDERS.glob("*.csv"))
print(f"{len(files)} files: {', '.join(files)}")
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps({"files": files}))
