"""Train MobileNetV2 by the recipe of the published comparison, into runs/ and results/published_mobilenet_v2.json.

    python scripts/published.py     about an hour on two cores; goes on where it was stopped

Needs CIFAR-10 and the ImageNet weights. The recipe is that of the published notebook: ten epochs of the last layer,
then up to twenty of the last 50 layers with their BatchNorm, in batches of 32 images without augmentation, stopped
where the accuracy has not risen for three epochs. Two things differ: 5,000 of the 50,000 training images are kept for
validation, and the input resolution is 96 px, not 224. The published training chose its epoch, and when to stop, by the
test split. Here each epoch is measured on the validation and on the test split, and training ends when both would have
stopped it, so that the record tells how much choosing by the test split adds to the accuracy.
"""

import json
import time
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from release import file_entry, pretrained_weights

from cifar_compare.hardware import hardware
from cifar_compare.kernels import fused
from cifar_compare.models import IMAGE_SIZE, resize
from cifar_compare.roles import input_size, parts
from cifar_compare.system import write_json

ROOT = Path(__file__).resolve().parents[1]
RUNS, RECORD = ROOT / "runs", ROOT / "results" / "published_mobilenet_v2.json"
NAME, SIZE = "published_mobilenet_v2", 96  # px
TRAINED = 50  # the last layers of the base, which are trained; pooling and head are not counted
HEAD_EPOCHS, EPOCHS, PATIENCE = 10, 20, 3
FROZEN = "block_10_project_BN"  # all layers up to this one are frozen, so its output is computed only once


def published_mobilenet_v2(weights="imagenet", size=SIZE):
    """MobileNetV2 as it was published: pictures enlarged bilinearly, its last layers trained with their BatchNorm."""
    network = parts(cc.build_mobilenet_v2(weights, size))[1]
    base = network.layers[2 : network.layers.index(network.get_layer("pool"))]
    for layer in base:
        layer.trainable = layer in base[-TRAINED:]
    raw, pixels = keras.Input((None, None, 3)), keras.Input((None, None, 3), name="pixels")
    seen = resize(resize(raw, IMAGE_SIZE), size, antialias=False, interpolation="bilinear")
    preprocessing = keras.Model(raw, seen, name="preprocessing")
    return keras.Model(pixels, network(preprocessing(pixels)), name=NAME)


def train(model, data, epochs=EPOCHS, runs=RUNS, record=RECORD):
    """Train `model`, a checkpoint an epoch; save the epoch that validation chooses; return the record."""
    runs.mkdir(parents=True, exist_ok=True)
    checkpoint, best, partial = (runs / f"{NAME}.{end}.keras" for end in ("checkpoint", "best", "partial"))
    preprocessing, network = parts(model)
    cut = network.get_layer(FROZEN).output
    lower, upper = keras.Model(network.inputs, cut), keras.Model(cut, network.outputs)
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    setting = {"input_size": input_size(model), "data_fingerprint": data.fingerprint}
    setting |= {"parameters": model.count_params(), "pretrained_weights": pretrained_weights()}
    told = json.loads(record.read_text()) if checkpoint.exists() and record.exists() else None
    if told and (changed := [key for key, value in setting.items() if told[key] != value]):
        raise SystemExit(f"{checkpoint} was trained with another {', '.join(changed)}: remove it to train anew")
    whole = keras.Model(preprocessing.inputs, lower(preprocessing.outputs[0]))
    below = {name: whole.predict(split.images.astype("float32"), 250, verbose=0) for name, split in splits.items()}
    if told:
        upper = keras.saving.load_model(checkpoint)
    else:
        told = setting | {
            "hardware": hardware(),
            "head_val_accuracy": _train_head(network, below, splits),
            "history": [],
        }
        upper.compile(
            keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
        )
    history = told["history"]
    while len(history) < epochs and not all(history and chosen(history, by)[1] for by in ("val", "test")):
        start, order = time.perf_counter(), np.random.default_rng(len(history)).permutation(len(data.train))
        with fused(upper):
            logs = upper.fit(below["train"][order], data.train.labels[order], 32, shuffle=False, verbose=2).history
        row = {"epoch": len(history) + 1} | {name: values[0] for name, values in logs.items()}
        for name in ("val", "test"):
            answers = upper.predict(below[name], 250, verbose=0).argmax(axis=1)
            row[f"{name}_accuracy"] = float((answers == splits[name].labels).mean())
        history.append(row | {"seconds": time.perf_counter() - start})
        if chosen(history, "val")[0] is history[-1]:
            upper.save(best)
        upper.save(partial)
        partial.replace(checkpoint)
        write_json(record, told)
    for layer in keras.saving.load_model(best).layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    model.save(runs / f"{NAME}.keras")
    told["sha256"] = file_entry(runs / f"{NAME}.keras")["sha256"]
    write_json(record, told)
    return told


def chosen(history, split):
    """The epoch that is kept where training stops by the accuracy on a split, and whether it has stopped."""
    best, by = history[0], f"{split}_accuracy"
    for row in history:
        if row[by] > best[by]:
            best = row
        elif row["epoch"] - best["epoch"] >= PATIENCE:
            return best, True
    return best, False


def _train_head(network, below, splits):
    """Train the last layer on pooled features, which are computed once."""
    pooled = keras.Model(network.get_layer(FROZEN).output, network.get_layer("pool").output)
    made = {name: (pooled.predict(below[name], 250, verbose=0), splits[name].labels) for name in ("train", "val")}
    head = keras.Sequential([keras.Input((1280,)), network.get_layer("logits"), keras.layers.Softmax()])
    head.compile(
        keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    keras.utils.set_random_seed(0)
    logs = head.fit(*made["train"], 32, HEAD_EPOCHS, verbose=2, validation_data=made["val"])
    return logs.history["val_accuracy"][-1]


if __name__ == "__main__":
    train(published_mobilenet_v2(), cc.load_cifar10())
