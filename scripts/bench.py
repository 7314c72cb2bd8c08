"""Measure how fast the code is: ratios within one run, medians of several, into results/bench.json.

    python scripts/bench.py [PART ...]     the parts named, or all: share, inference, exports, race

Needs CIFAR-10 and an idle machine. docs/templates/speed.md tells what was measured.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from experiments import RECORD as EXPERIMENTS
from experiments import WIDTHS, short_recipe
from published import published_cnn

from cifar_compare.artefacts import NAMES
from cifar_compare.hardware import hardware
from cifar_compare.kernels import fused, precision, training_dtype
from cifar_compare.models import IMAGE_SIZE
from cifar_compare.optimizers import schedule
from cifar_compare.roles import multiply_adds, parts
from cifar_compare.system import write_json
from cifar_compare.training import batches, trainer

ROOT = Path(__file__).resolve().parents[1]
RECORD, PUBLISHED = ROOT / "results" / "bench.json", ROOT / "results" / "published_cnn.json"
TARGET = 0.8863  # the published accuracy of the published CNN, reached here on the validation split


def median_seconds(call, repeats=5, warm=2):
    """Median wall-clock seconds of a call, after some that are not counted."""
    taken = []
    for _ in range(warm + repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[warm:]))


def step_seconds(network, data, recipe, size, faster=fused, compiled=False):
    """Seconds of one training step, as `train` takes it, or without its own BatchNorm and GELU, or compiled by XLA."""
    optimizer = recipe.optimizer(schedule(recipe, 1000))
    optimizer.build(network.trainable_variables)
    batch = next(batches(data.train, recipe, 0))
    with precision(network, training_dtype(recipe)), faster(network):
        made = trainer(network, size, optimizer, recipe)
        made.jit_compile = compiled
        return median_seconds(lambda: made.train_on_batch(*batch))


def bare(network, *kinds):
    """A new network like this one, but without its layers of the given kinds."""

    def call(layer, pixels, **options):
        return pixels if isinstance(layer, kinds) else layer(pixels, **options)

    clone = keras.models.clone_model(network, call_function=call)
    clone.get_layer("whiten").kernel.trainable = False
    return clone


def share(data):
    """Training throughput against the peak for large matrix products of the same dtype, and what the input costs."""
    recipe, model, side = cc.RECIPES["custom_cnn"], cc.build_custom_cnn(), 4096
    network, dtype = parts(model)[1], training_dtype(recipe).removeprefix("mixed_")
    matrix = keras.ops.cast(keras.random.normal((side, side), seed=0), dtype)
    product = median_seconds(lambda: float(keras.ops.cast(keras.ops.matmul(matrix, matrix)[0, 0], "float32")))
    norm, gelu = keras.layers.BatchNormalization, keras.layers.Activation

    def seconds(network=network, recipe=recipe, **how):
        return step_seconds(network, data, recipe, IMAGE_SIZE, **how)

    step, made = seconds(), batches(data.train, recipe, 0)
    return {
        "dtype": dtype,
        "peak_gflops": 2 * side**3 / product / 1e9,
        # Forward, gradient of the pictures and gradient of the weights: three products of a multiplication and a sum.
        "training_gflops": 3 * 2 * multiply_adds(model) * recipe.batch_size / step / 1e9,
        "images_per_second": recipe.batch_size / step,
        "input_seconds": median_seconds(lambda: next(made)),
        "step_seconds": step,
        "variants": {
            "without BatchNorm": seconds(bare(network, norm)),
            "without GELU": seconds(bare(network, gelu)),
            "without either": seconds(bare(network, norm, gelu)),
            "with BatchNorm and GELU as Keras makes them": seconds(faster=nullcontext),
            "all in float32": seconds(recipe=dataclasses.replace(recipe, mixed_precision=False)),
            "all compiled by XLA": seconds(faster=nullcontext, compiled=True),
        },
    }


def speed(ask, pixels):
    """Latency of one picture and throughput of 250."""
    one, many = (median_seconds(lambda n=n: ask(pixels[:n])) for n in (1, 250))
    return {"latency_ms": 1e3 * one, "per_second": 250 / many}


def answer(name, images, answers):
    """Write what a model answers to the images of a file; its speed. Each backend takes a process of its own."""
    model, pixels = cc.load_model(name), np.load(images)
    np.save(answers, model.predict(pixels, batch_size=250, verbose=0))
    return speed(model.predict_on_batch, pixels)


def answer_on(backend, *arguments):
    """As `answer`, on a backend of Keras."""
    command = [sys.executable, __file__, "--answer", *map(str, arguments)]
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def lite(path):
    """A call that runs a LiteRT file on a batch of any size."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path), num_threads=os.cpu_count())
    network.allocate_tensors()

    def ask(pixels):
        place = network.get_input_details()[0]
        if tuple(place["shape"]) != pixels.shape:
            network.resize_tensor_input(place["index"], pixels.shape)
            network.allocate_tensors()
        network.set_tensor(place["index"], pixels)
        network.invoke()
        return network.get_tensor(network.get_output_details()[0]["index"])

    return ask


def inference(data):
    """Latency of one picture and throughput of 250 on TensorFlow, JAX and LiteRT, and how far the answers part."""
    rows = []
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            images, file, network = (f"{folder}/{each}" for each in ("images.npy", "answers.npy", "network.tflite"))
            pixels, found = data.validation.images[:500].astype("float32"), {}
            np.save(images, pixels)
            for on in ("TensorFlow", "JAX"):
                found[on] = answer_on(on.lower(), name, images, file), np.load(file)
            cc.export(name, network)
            ask, seen = lite(network), parts(cc.load_model(name))[0].predict_on_batch(pixels[:250])
            found["LiteRT, without preprocessing"] = speed(ask, seen), ask(seen)
        for on, (timed, answers) in found.items():
            apart = float(np.abs(answers - found["TensorFlow"][1][: len(answers)]).max())
            row = {"model": name, "sha256": cc.load_card(name)["sha256"], "on": on}
            rows.append(row | timed | {"apart": apart})
    return rows


def exports(data):
    """Size and test accuracy of each precision that `cifar-compare export` writes."""
    rows = []
    for name in NAMES:
        sha256, preprocessing = cc.load_card(name)["sha256"], parts(cc.load_model(name))[0]
        for digits in ("float32", "float16", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                cc.export(name, path := Path(folder) / "network.tflite", digits)
                ask, answers = lite(path), []
                for start in range(0, len(data.test), 250):
                    pixels = data.test.images[start : start + 250].astype("float32")
                    answers.append(ask(np.asarray(preprocessing.predict_on_batch(pixels))))
                row = {"model": name, "sha256": sha256, "precision": digits, "bytes": path.stat().st_size}
            result = cc.score(np.concatenate(answers), data.test.labels)
            rows.append(row | {"accuracy": result.accuracy, "interval": result.interval})
    return rows


def race(data):
    """Time to the published accuracy: steps of both recipes timed here, times how many either took."""
    if not PUBLISHED.exists():
        raise SystemExit(f"there is no {PUBLISHED}; run `python scripts/published.py cnn` first (hours)")
    published, model = json.loads(PUBLISHED.read_text()), parts(published_cnn())[1]
    history = published["history"]
    reached = [row["epoch"] for row in history if row["val_accuracy"] >= TARGET]
    epochs = reached[0] if reached else len(history)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    images, labels = data.train.images[:32].astype("float32"), data.train.labels[:32]
    theirs = median_seconds(lambda: model.train_on_batch(images, labels), repeats=20)
    recipe, network = short_recipe(), parts(cc.build_custom_cnn(0, WIDTHS))[1]
    ours = sum(count * step_seconds(network, data, recipe, size) for count, size in recipe.stages)
    runs = [row for row in json.loads(EXPERIMENTS.read_text()) if row["idea"] == "recipe"]
    return {
        "target": TARGET,
        "published_reached": bool(reached),
        "published_hardware": published["hardware"],
        "published_epochs": epochs,
        "published_best": max(row["val_accuracy"] for row in history),
        "published_minutes": epochs * math.ceil(len(data.train) / 32) * theirs / 60,
        "ours_accuracies": [row["val_accuracy"] for row in runs],
        "ours_epochs": recipe.epochs,
        "ours_minutes": math.ceil(len(data.train) / recipe.batch_size) * ours / 60,
    }


PARTS = {"share": share, "inference": inference, "exports": exports, "race": race}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; there are {' '.join(PARTS)}")
    if given.answer:
        print(json.dumps(answer(*given.answer)))
        return
    data = cc.load_cifar10()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in given.parts or PARTS:
        print(f"measuring {name}")
        record |= {"hardware": hardware(), name: PARTS[name](data)}
        write_json(RECORD, record)


if __name__ == "__main__":
    main()
