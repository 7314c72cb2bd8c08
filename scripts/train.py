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

import keras

import cifar_compare as cc
from cifar_compare.models import multiply_adds, working_size

MODELS = Path(__file__).resolve().parents[1] / "models"


def hardware():
    """A line that says what the training ran on."""
    names = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _read("/proc/cpuinfo") if line.startswith("flags")), "")
    widest = next((flag for flag in ("avx512f", "avx2") if f" {flag}" in flags), "")
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor()} {widest}".strip()


def _read(path):
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def pretrained_origin(name):
    """Where the weights came from that a training started from."""
    if name != "mobilenet_v2":
        return None
    if "MOBILENET_V2_WEIGHTS" not in os.environ:
        return "ImageNet weights of keras.applications.MobileNetV2"
    return (
        "ImageNet weights of Google's MobileNetV2 1.0 224, int8 per channel (google-coral/test_data, "
        "tf2_mobilenet_v2_1.0_224_ptq.tflite, Apache-2.0), turned back into float32, with BatchNorm statistics "
        "of 1,024 CIFAR-10 training images at 128 px; not the float32 file that Keras downloads"
    )


def ship(name, runs):
    """Train (or resume, or find finished), calibrate on the validation split, and write the file and its card."""
    data = cc.load_cifar10()
    recipe = cc.RECIPES[name]
    model = getattr(cc, f"build_{name}")()
    history = cc.train(model, data, recipe, Path(runs) / f"{name}-seed{recipe.seed}")

    before = cc.evaluate(model, data.validation, verbose=True)
    temperature = cc.calibrate(model, data.validation)
    MODELS.mkdir(exist_ok=True)
    model.save(MODELS / f"{name}.keras")
    card = {
        "name": name,
        "file": f"{name}.keras",
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "working_size": working_size(model),
        "recipe": dataclasses.asdict(recipe),
        "data_fingerprint": data.fingerprint,
        "pretrained_weights": pretrained_origin(name),
        "training_seconds": sum(row["seconds"] for row in history),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            **{package: version(package) for package in ("keras", "tensorflow", "numpy")},
        },
        "temperature": temperature,
        "ece_before_temperature": {"validation": before.ece},
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
