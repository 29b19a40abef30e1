"""Deal the flowers into three hands, each with as many of every species: to train, to choose, and to judge."""

import csv
import json
import os
import random
from pathlib import Path

FLOWERS = Path(__file__).parent / "iris.csv"
SHARES = {"train": 0.6, "validation": 0.2, "holdout": 0.2}

seed = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["seed"]
dice = random.Random(seed)
with FLOWERS.open(newline="") as file:
    species = [row["species"] for row in csv.DictReader(file)]

hands: dict[str, list[int]] = {name: [] for name in SHARES}
for kind in sorted(set(species)):
    rows = [number for number, each in enumerate(species) if each == kind]
    dice.shuffle(rows)
    start = 0
    for name, share in SHARES.items():
        end = start + round(share * len(rows))
        hands[name] += rows[start:end]
        start = end
print({name: len(rows) for name, rows in hands.items()})
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(hands))
