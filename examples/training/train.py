"""Train one model with the parameters that are this task's item, and say how well it does on the validation set."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from softmax import Model, flowers

given = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())
parameters, hands = given["item"], given["upstream"][0]["result"]
features, species = flowers()
hand = {name: ([features[row] for row in rows], [species[row] for row in rows]) for name, rows in hands.items()}

model = Model.trained(*hand["train"], **parameters)
loss = model.loss(*hand["validation"])
print(f"{parameters}: validation loss {loss:.4f}")
result = {"parameters": parameters, "loss": loss, "model": asdict(model)}
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(result))
