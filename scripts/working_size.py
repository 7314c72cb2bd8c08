"""Choose MobileNetV2's working size by short runs on the validation split, and write results/working_size.json.

    python scripts/working_size.py

Each size gets the head of the recipe and then two epochs at that size alone, on a tenth of the training images.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

import cifar_compare as cc

RECORD = Path(__file__).resolve().parents[1] / "results" / "working_size.json"
SIZES = (96, 128)  # px
EPOCHS, A_CLASS = 2, 450  # training images of each class


def short_run(data, size):
    """The validation result after a short training at one working size."""
    recipe = dataclasses.replace(cc.RECIPES["mobilenet_v2"], stages=((EPOCHS, size),))
    model = cc.build_mobilenet_v2(working_size=size)
    with tempfile.TemporaryDirectory() as folder:
        cc.train(model, data, recipe, folder)
    return cc.evaluate(model, data.validation)


def main():
    data = cc.load_cifar10()
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:A_CLASS] for label in range(10)])
    few = cc.Split(data.train.images[chosen], data.train.labels[chosen])
    runs = {size: short_run(dataclasses.replace(data, train=few), size) for size in SIZES}
    paired = cc.compare(*(runs[size] for size in reversed(SIZES)))
    record = {
        "model": "mobilenet_v2",
        "training_images": len(few),
        "epochs": EPOCHS,
        "validation_images": len(data.validation),
        "sizes": {size: {"accuracy": run.accuracy, "interval": run.interval} for size, run in runs.items()},
        "difference": {"value": paired.difference, "interval": paired.interval, "p_value": paired.p_value},
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(RECORD.read_text())


if __name__ == "__main__":
    main()
