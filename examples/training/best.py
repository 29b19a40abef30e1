"""Choose the model with the smallest loss on the validation set; of two that are as good, the first."""

import json
import os
from pathlib import Path

models = json.loads(Path(os.environ["TASKRUNNER_INPUT_FILE"]).read_text())["upstream"][0]["result"]
for model in sorted(models, key=lambda each: each["loss"]):
    print(f"{model['loss']:.4f}  {model['parameters']}")
Path(os.environ["TASKRUNNER_RESULT_FILE"]).write_text(json.dumps(min(models, key=lambda each: each["loss"])))
