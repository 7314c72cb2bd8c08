"""Train both published networks by their recipes, into runs/ and results/published_*.json.

    python scripts/published.py [cnn] [mobilenet_v2]     hours on two cores; goes on where it was stopped

Needs CIFAR-10, and for MobileNetV2 the ImageNet weights. The recipes are those of the published notebooks, in batches
of 32 images:

- CNN: at most 40 epochs of Adam with flips and rotations. The learning rate is halved where the loss has not fallen
  for three epochs; after five epochs without a fall training stops.
- MobileNetV2: ten epochs of the last layer, then up to twenty of the last 50 layers with their BatchNorm, without
  augmentation, stopped where the accuracy has not risen for three epochs.

Two things differ: 5,000 of the 50,000 training images are kept for validation, and MobileNetV2's input resolution is
96 px, not 224. The published trainings chose the epoch, and when to stop, by the test split. Here each epoch is
measured on the validation and on the test split, and training ends when both would have stopped it, so that the record
tells how much choosing by the test split adds to the accuracy. The learning rate follows the validation split.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from release import file_entry, pretrained_weights

from cifar_compare.hardware import hardware, has_bfloat16
from cifar_compare.kernels import fused, precision
from cifar_compare.models import IMAGE_SIZE, resize
from cifar_compare.roles import input_size, layers_of, parts
from cifar_compare.system import write_json

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = ROOT / "runs", ROOT / "results"
SIZE = 96  # px, of MobileNetV2
TRAINED = 50  # the last layers of the base, which are trained; pooling and head are not counted
HEAD_EPOCHS = 10
MINUTES = 4  # of an epoch of either network, on one core
FROZEN = "block_10_project_BN"  # all layers up to this one are frozen, so its output is computed only once


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: when its learning rate falls, when training stops, and by which figure."""

    epochs: int
    by: str  # "accuracy" or "loss"
    patience: int  # epochs without a better one, after which training stops
    rate: float  # learning rate at the start
    halved_after: int | None = None  # epochs without a lower validation loss
    dtype: str = "float32"


RECIPES = {
    "published_cnn": Recipe(40, "loss", 5, 1e-3, 3, "mixed_bfloat16" if has_bfloat16() else "float32"),
    "published_mobilenet_v2": Recipe(20, "accuracy", 3, 1e-5),
}


def published_cnn():
    """The CNN of the published comparison: 3.25 million parameters, dropout, augmentation inside the model."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    model.add(layers.RandomFlip("horizontal", seed=0))
    model.add(layers.RandomRotation(0.1, seed=1))
    for width, dropout in ((64, 0.25), (128, 0.3), (256, 0.4)):
        for _ in range(2):
            model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(dropout))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, activation="softmax"))
    return cc.with_preprocessing(model, name="published_cnn")


def published_mobilenet_v2(weights="imagenet", size=SIZE):
    """MobileNetV2 as it was published: pictures enlarged bilinearly, its last layers trained with their BatchNorm."""
    network = parts(cc.build_mobilenet_v2(weights, size))[1]
    base = network.layers[2 : network.layers.index(network.get_layer("pool"))]
    for layer in base:
        layer.trainable = layer in base[-TRAINED:]
    raw, pixels = keras.Input((None, None, 3)), keras.Input((None, None, 3), name="pixels")
    seen = resize(resize(raw, IMAGE_SIZE), size, antialias=False, interpolation="bilinear")
    preprocessing = keras.Model(raw, seen, name="preprocessing")
    return keras.Model(pixels, network(preprocessing(pixels)), name="published_mobilenet_v2")


def train(model, data, recipe=None, runs=RUNS, results=RESULTS):
    """Train `model`, a checkpoint an epoch; save the epoch that validation chooses into `runs`; return the record.

    The record is written beside the checkpoint, and into `results` when the training is complete.
    """
    for folder in (runs, results):
        folder.mkdir(parents=True, exist_ok=True)
    recipe, name = recipe or RECIPES[model.name], model.name
    checkpoint, best, partial, record = (
        runs / f"{name}.{end}" for end in ("checkpoint.keras", "best.keras", "partial.keras", "history.json")
    )
    if name in (done := trained(runs, results)) and done[name][0]:
        print(f"{done[name][0]} is trained")
        return json.loads((results / f"{name}.json").read_text())
    setting = {"input_size": input_size(model), "data_fingerprint": data.fingerprint}
    setting |= {"parameters": model.count_params()}
    setting |= {"pretrained_weights": pretrained_weights() if "mobilenet" in name else None}
    told = json.loads(record.read_text()) if checkpoint.exists() and record.exists() else None
    if told and (changed := [key for key, value in setting.items() if told[key] != value]):
        raise SystemExit(f"{checkpoint} was trained with another {', '.join(changed)}: remove it to train anew")
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    keras.utils.set_random_seed(0)
    built, given = _learner(model, splits)
    learner = keras.saving.load_model(checkpoint) if told else built
    if not told:
        told = setting | {"hardware": f"{hardware()}, {recipe.dtype}", "history": []}
        if "mobilenet" in name:
            told["head_val_accuracy"] = _train_head(parts(model)[1], given, splits)
        optimizer = keras.optimizers.Adam(recipe.rate)
        learner.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    history = told["history"]
    left = f"{recipe.epochs - len(history)} of {recipe.epochs} epochs are left at most"
    print(f"{name}: {left}, some {MINUTES} min each on one core; it may stop earlier")
    while len(history) < recipe.epochs and not all(
        history and chosen(history, split, recipe)[1] for split in ("val", "test")
    ):
        start, order = time.perf_counter(), np.random.default_rng(len(history)).permutation(len(data.train))
        learner.optimizer.learning_rate = recipe.rate / 2 ** halvings(history, recipe.halved_after)
        _draw_anew(learner, len(history))
        with precision(learner, recipe.dtype), fused(learner):
            logs = learner.fit(given["train"][order], data.train.labels[order], 32, shuffle=False, verbose=2).history
            answers = {split: learner.predict(given[split], 250, verbose=0) for split in ("val", "test")}
        row = {"epoch": len(history) + 1, "learning_rate": float(learner.optimizer.learning_rate)}
        row |= {name: values[0] for name, values in logs.items()}
        for split, probabilities in answers.items():
            result = cc.score(probabilities, splits[split].labels)
            row |= {f"{split}_accuracy": result.accuracy, f"{split}_loss": result.nll}
        history.append(row | {"seconds": time.perf_counter() - start})
        if chosen(history, "val", recipe)[0] is history[-1]:
            learner.save(best)
        learner.save(partial)
        partial.replace(checkpoint)
        write_json(record, told)
    built.set_weights(keras.saving.load_model(best).get_weights())  # its layers are those of `model`
    model.save(runs / f"{name}.keras")
    told["sha256"] = file_entry(runs / f"{name}.keras")["sha256"]
    write_json(results / f"{name}.json", told)
    return told


def trained(runs=RUNS, results=RESULTS):
    """File and SHA-256 of the published networks that a record tells of, by name; None for a file that is not here."""
    found = {}
    for name in RECIPES:
        record, file = results / f"{name}.json", runs / f"{name}.keras"
        if record.exists() and (sha256 := json.loads(record.read_text()).get("sha256")):
            here = file.exists() and file_entry(file)["sha256"] == sha256
            found[name] = (file if here else None, sha256)
    return found


def chosen(history, split, recipe):
    """The epoch that is kept where training stops by the figure of a split, and whether it has stopped."""
    best, by, sign = history[0], f"{split}_{recipe.by}", -1 if recipe.by == "loss" else 1
    for row in history:
        if sign * row[by] > sign * best[by]:
            best = row
        elif row["epoch"] - best["epoch"] >= recipe.patience:
            return best, True
    return best, False


def halvings(history, patience):
    """How often the learning rate was halved: once for each `patience` epochs in a row without a lower loss.

    Keras's callback for this forgets its count when a training is stopped.
    """
    best, waited, count = float("inf"), 0, 0
    for row in history if patience else ():
        waited = 0 if row["val_loss"] < best else waited + 1
        best = min(best, row["val_loss"])
        if waited == patience:
            waited, count = 0, count + 1
    return count


def _draw_anew(network, epoch):
    """Let dropout and augmentation draw by the epoch alone, so that a training that was stopped goes on as it would."""
    for number, layer in enumerate(layers_of(network)):
        generator = getattr(layer, "seed_generator", None) or getattr(layer, "generator", None)
        if generator is not None:
            generator.state.assign([number, 1_000_000 * epoch])


def _learner(model, splits):
    """What is trained of a model, and its input by split: all of a network, or what lies above the frozen layers."""
    preprocessing, network = parts(model)
    if model.name == "published_cnn":
        return network, {name: split.images.astype("float32") for name, split in splits.items()}
    cut = network.get_layer(FROZEN).output
    lower = keras.Model(network.inputs, cut)
    whole = keras.Model(preprocessing.inputs, lower(preprocessing.outputs[0]))
    given = {name: whole.predict(split.images.astype("float32"), 250, verbose=0) for name, split in splits.items()}
    return keras.Model(cut, network.outputs), given


def _train_head(network, given, splits):
    """Train the last layer on pooled features, which are computed once."""
    pooled = keras.Model(network.get_layer(FROZEN).output, network.get_layer("pool").output)
    made = {name: (pooled.predict(given[name], 250, verbose=0), splits[name].labels) for name in ("train", "val")}
    head = keras.Sequential([keras.Input((1280,)), network.get_layer("logits"), keras.layers.Softmax()])
    head.compile(
        keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    keras.utils.set_random_seed(0)
    logs = head.fit(*made["train"], 32, HEAD_EPOCHS, verbose=2, validation_data=made["val"])
    return logs.history["val_accuracy"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    builders = {"cnn": published_cnn, "mobilenet_v2": published_mobilenet_v2}
    parser.add_argument(
        "networks", nargs="*", metavar="cnn|mobilenet_v2", choices=[[], *builders], help="default: both"
    )
    for name in parser.parse_args().networks or builders:
        train(builders[name](), cc.load_cifar10())


if __name__ == "__main__":
    main()
