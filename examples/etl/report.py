"""Join the sums of all shops with the catalogue, and leave the report: one row for each category, one column a shop."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

PRODUCTS = Path(__file__).parent / "products.csv"
UNKNOWN = "not in the catalogue"

with PRODUCTS.open(newline="") as catalogue:
    category = {row["code"]: row["category"] for row in csv.DictReader(catalogue)}

given = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())
shops = given["upstream"][0]["result"]  # of a fan-out: the results of its children, in the order of the items
revenue = Counter[tuple[str, str]]()
for shop in shops:
    for product, cents in shop["cents"].items():
        revenue[category.get(product, UNKNOWN), shop["shop"]] += cents

names = [shop["shop"] for shop in shops]
with (Path(os.environ["TASKRUNNER_ARTIFACTS_DIR"]) / "report.csv").open("w", newline="") as file:
    report = csv.writer(file)
    report.writerow(["category", *names, "total"])
    for row in sorted({kind for kind, _ in revenue}):
        cells = [revenue[row, name] for name in names]
        report.writerow([row, *(f"{cents / 100:.2f}" for cents in (*cells, sum(cells)))])

dropped = sum((Counter(shop["dropped"]) for shop in shops), Counter[str]())
result = {"shops": len(shops), "revenue": f"{revenue.total() / 100:.2f}", "dropped": dropped}
print(result)
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))
