"""Judge the chosen model by flowers that nothing has seen yet; leave model and verdict as artifacts."""

import json
import os
from pathlib import Path

from softmax import SPECIES, Model, flowers

given = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())
upstream = {each["member"]: each["result"] for each in given["upstream"]}
features, species = flowers()
model = Model(**upstream["best"]["model"])

confusion = [[0] * len(SPECIES) for _ in SPECIES]
for row in upstream["split"]["holdout"]:
    confusion[species[row]][model.guess(features[row])] += 1
right = sum(confusion[kind][kind] for kind in range(len(SPECIES)))
accuracy = right / len(upstream["split"]["holdout"])

lines = [f"accuracy {accuracy:.3f} with {upstream['best']['parameters']}"]
lines.append(f"{'truth':<15}" + "".join(f"{'as ' + name:>15}" for name in SPECIES))
lines += [
    f"{name:<15}" + "".join(f"{count:>15}" for count in counts) for name, counts in zip(SPECIES, confusion, strict=True)
]
print("\n".join(lines))
artifacts = Path(os.environ["TASKRUNNER_ARTIFACTS_DIR"])
(artifacts / "evaluation.txt").write_text("\n".join(lines) + "\n")
(artifacts / "model.json").write_text(json.dumps(upstream["best"], indent=2) + "\n")
result = {"accuracy": accuracy, "confusion": confusion, "parameters": upstream["best"]["parameters"]}
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))
