"""Train a model by its recipe and ship it: weights and card in models/, calibrated on the validation split.

    python scripts/train.py custom_cnn [--runs runs]

Resumes where an earlier call was interrupted. The test split is not looked at here; `scripts/measure.py` does that.
"""

import argparse
import dataclasses
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
from measure import MODELS, file_entry

from cifar_compare.models import multiply_adds, working_size

# Weight files that may stand in for the one that Keras downloads, by SHA-256.
STAND_INS = {
    "c940d711b5fe256b787769cd6f66c05ce4790b03d13599b219dc36c2232f93df": (
        "ImageNet weights of Google's MobileNetV2 1.0 224, int8 per channel (google-coral/test_data, "
        "tf2_mobilenet_v2_1.0_224_ptq.tflite, Apache-2.0), turned back into float32, with BatchNorm statistics "
        "of 1,024 CIFAR-10 training images at 128 px; not the float32 file that Keras downloads"
    ),
}


def pretrained_origin(name):
    """Where the weights came from that a training started from."""
    if name == "custom_cnn":
        return None
    if not (path := os.environ.get("MOBILENET_V2_WEIGHTS")):
        return "ImageNet weights of keras.applications.MobileNetV2"
    digest = file_entry(Path(path))["sha256"]
    return STAND_INS.get(digest, f"a local file of ImageNet weights, SHA-256 {digest}")


def earlier_test_accuracies(name):
    """Those of the models that this one replaces: each was a look at the test split."""
    path = MODELS / f"{name}.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    return card.get("earlier_test_accuracies", []) + ([card["test"]["accuracy"]] if "test" in card else [])


def ship(name, runs):
    """Train (or resume, or find finished), calibrate on the validation split, and write the file and its card."""
    data = cc.load_cifar10()
    recipe = cc.RECIPES[name]
    model = cc.build_custom_cnn() if name == "custom_cnn" else cc.build_mobilenet_v2()
    history = cc.train(model, data, recipe, Path(runs) / f"{name}-seed{recipe.seed}")

    temperature = cc.calibrate(model, data.validation)
    MODELS.mkdir(exist_ok=True)
    model.save(MODELS / f"{name}.keras")
    card = {
        "name": name,
        **file_entry(MODELS / f"{name}.keras"),
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "working_size": working_size(model),
        "recipe": dataclasses.asdict(recipe),
        "data_fingerprint": data.fingerprint,
        "pretrained_weights": pretrained_origin(name),
        "training_seconds": sum(row["seconds"] for row in history),
        "hardware": "; then ".join(dict.fromkeys(row["hardware"] for row in history if "hardware" in row)),
        "versions": {
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            **{package: version(package) for package in ("keras", "tensorflow", "numpy")},
        },
        "temperature": temperature,
        "earlier_test_accuracies": earlier_test_accuracies(name),
        "history": history,
    }
    (MODELS / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(cc.RECIPES))
    parser.add_argument("--runs", default="runs", help="folder of the checkpoints (default: %(default)s)")
    given = parser.parse_args()
    for each in given.names:
        ship(each, given.runs)
