"""Clean one shop's orders and sum them by product; the clean file is left as an artifact."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ORDERS = Path(__file__).parent / "orders"
COLUMNS = ("order", "date", "product", "quantity", "cents")


def cleaned(lines: Iterator[dict[str, str]], dropped: Counter[str]) -> Iterator[dict[str, str | int]]:
    """Give each order once, with its product's code as the catalogue writes it and its price in cents."""
    seen = set[str]()
    for line in lines:
        if line["order"] in seen:
            dropped["repeated"] += 1
        elif not line["quantity"]:
            dropped["incomplete"] += 1
        else:
            seen.add(line["order"])
            yield {
                "order": line["order"],
                "date": line["date"],
                "product": line["product"].strip().upper(),
                "quantity": int(line["quantity"]),
                "cents": int(line["unit_price"].replace(",", "").replace(".", "")),
            }


def main() -> None:
    """Read the file that is this task's item."""
    name = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["item"]
    dropped, units, cents = Counter[str](), Counter[str](), Counter[str]()
    target = Path(os.environ["TASKRUNNER_ARTIFACTS_DIR"]) / name
    with (ORDERS / name).open(newline="") as source, target.open("w", newline="") as clean:
        writer = csv.DictWriter(clean, COLUMNS)
        writer.writeheader()
        for order in cleaned(csv.DictReader(source), dropped):
            writer.writerow(order)
            product, quantity = str(order["product"]), int(order["quantity"])
            units[product] += quantity
            cents[product] += quantity * int(order["cents"])
    print(f"{name}: {sum(units.values())} units sold, {sum(dropped.values())} lines dropped")
    result = {"shop": Path(name).stem, "dropped": dropped, "units": units, "cents": cents}
    Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
