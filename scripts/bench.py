"""Measure how fast the code is: ratios within one run, medians of several, into results/bench.json.

    python scripts/bench.py [PART ...]     the parts named, or all; then the tables
    python scripts/bench.py --tables       the tables of what is recorded
    python scripts/bench.py --baseline     train the published CNN once, hours; goes on where it was stopped

Needs CIFAR-10 and an idle machine. Parts: start, share, inference, exports, growth, race.
"""

import argparse
import dataclasses
import json
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
from markdown import interval, percent, table

from cifar_compare.artefacts import NAMES, verify
from cifar_compare.hardware import hardware
from cifar_compare.kernels import fused, precision, training_dtype
from cifar_compare.models import IMAGE_SIZE
from cifar_compare.optimizers import schedule
from cifar_compare.roles import multiply_adds, parts
from cifar_compare.system import write_json
from cifar_compare.training import batches, trainer

ROOT = Path(__file__).resolve().parents[1]
RECORD, PUBLISHED = ROOT / "results" / "bench.json", ROOT / "results" / "published_cnn.json"
RUNS = ROOT / "runs"
TARGET = 0.8863  # the published accuracy of the published CNN, reached here on the validation split
CAP = 40  # epochs of the published recipe


def median_seconds(call, repeats=5, warm=2):
    """Median wall-clock seconds of a call, after some that are not counted."""
    taken = []
    for _ in range(warm + repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[warm:]))


def published_cnn():
    """The CNN of the published comparison: 3.25 million parameters, dropout, augmentation inside the model."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    model.add(layers.RandomFlip("horizontal", seed=0))
    model.add(layers.RandomRotation(0.1, seed=1))
    for width, dropout in ((64, 0.2), (128, 0.3), (256, 0.4)):
        for _ in range(2):
            model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(dropout))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def train_published(data, epochs=CAP, folder=RUNS, record=PUBLISHED):
    """Train the published CNN to the target or the cap, a checkpoint an epoch, and record its history."""
    folder.mkdir(parents=True, exist_ok=True)
    file, partial = folder / "published_cnn.keras", folder / "partial.keras"
    history = []
    if file.exists() and record.exists():
        history = json.loads(record.read_text())["history"]
        model = keras.saving.load_model(file)
    else:
        keras.utils.set_random_seed(0)
        model = published_cnn()
    while len(history) < epochs and not (history and history[-1]["val_accuracy"] >= TARGET):
        start = time.perf_counter()
        # Shuffled here, because `fit` repeats its order in every epoch behind `set_random_seed`.
        order = np.random.default_rng(len(history)).permutation(len(data.train))
        images, labels = data.train.images[order].astype("float32"), data.train.labels[order]
        logs = model.fit(images, labels, batch_size=32, shuffle=False, verbose=2).history
        loss, accuracy = model.evaluate(
            data.validation.images.astype("float32"), data.validation.labels, batch_size=250, verbose=0
        )
        row = {name: values[0] for name, values in logs.items()} | {"val_loss": loss, "val_accuracy": accuracy}
        history.append(row | {"epoch": len(history) + 1, "seconds": time.perf_counter() - start})
        model.save(partial)
        partial.replace(file)
        told = {"parameters": model.count_params(), "hardware": hardware(), "cap": epochs}
        write_json(record, told | {"data_fingerprint": data.fingerprint, "history": history})
    return history


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
    recipe = cc.RECIPES["custom_cnn"]
    model = cc.build_custom_cnn()
    dtype = training_dtype(recipe).removeprefix("mixed_")
    side = 4096
    matrix = keras.ops.cast(keras.random.normal((side, side), seed=0), dtype)
    product = median_seconds(lambda: float(keras.ops.cast(keras.ops.matmul(matrix, matrix)[0, 0], "float32")))
    network = parts(model)[1]
    step = step_seconds(network, data, recipe, IMAGE_SIZE)
    made = batches(data.train, recipe, 0)
    norm, gelu = keras.layers.BatchNormalization, keras.layers.Activation
    plain = dataclasses.replace(recipe, mixed_precision=False)
    variants = {
        "without BatchNorm": step_seconds(bare(network, norm), data, recipe, IMAGE_SIZE),
        "without GELU": step_seconds(bare(network, gelu), data, recipe, IMAGE_SIZE),
        "without either": step_seconds(bare(network, norm, gelu), data, recipe, IMAGE_SIZE),
        "with BatchNorm and GELU as Keras makes them": step_seconds(network, data, recipe, IMAGE_SIZE, nullcontext),
        "all in float32": step_seconds(network, data, plain, IMAGE_SIZE),
        "all compiled by XLA": step_seconds(network, data, recipe, IMAGE_SIZE, nullcontext, True),
    }
    return {
        "dtype": dtype,
        "peak_gflops": 2 * side**3 / product / 1e9,
        # Forward, gradient of the pictures and gradient of the weights: three products of a multiplication and a sum.
        "training_gflops": 3 * 2 * multiply_adds(model) * recipe.batch_size / step / 1e9,
        "images_per_second": recipe.batch_size / step,
        "input_seconds": median_seconds(lambda: next(made)),
        "step_seconds": step,
        "variants": variants,
    }


ON_JAX = """
import os, sys, json, time
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], compile=False)
images = np.load(sys.argv[2]).astype("float32")
def median(call, n=7):
    taken = []
    for _ in range(n):
        start = time.perf_counter(); call(); taken.append(time.perf_counter() - start)
    return float(np.median(taken[2:]))
answers = model.predict(images, batch_size=250, verbose=0)
one = median(lambda: model.predict_on_batch(images[:1]))
many = median(lambda: model.predict_on_batch(images[:250]))
np.save(sys.argv[3], answers)
print(json.dumps([one, 250 / many]))
"""


def inference(data):
    """Latency of one picture and throughput of 250 on TensorFlow, JAX and LiteRT, and how far the answers part."""
    from ai_edge_litert.interpreter import Interpreter

    images, rows = data.validation.images[:500], []
    for name in NAMES:
        card = cc.load_card(name)
        path, model = verify(name, card), cc.load_model(name)
        pixels = images.astype("float32")
        answers = model.predict(pixels, batch_size=250, verbose=0)
        row = {"model": name, "sha256": card["sha256"]}
        one = median_seconds(lambda model=model, x=pixels[:1]: model.predict_on_batch(x))
        many = median_seconds(lambda model=model, x=pixels[:250]: model.predict_on_batch(x))
        rows.append(row | {"on": "TensorFlow", "latency_ms": 1e3 * one, "per_second": 250 / many, "apart": 0.0})
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/images.npy", images)
            command = [sys.executable, "-c", ON_JAX, path, f"{folder}/images.npy", f"{folder}/answers.npy"]
            one, many = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            apart = float(np.abs(np.load(f"{folder}/answers.npy") - answers).max())
            rows.append(row | {"on": "JAX", "latency_ms": 1e3 * one, "per_second": many, "apart": apart})
            cc.export(name, f"{folder}/network.tflite")
            ask = lite(Interpreter(f"{folder}/network.tflite", num_threads=os.cpu_count()))
            entered = parts(model)[0].predict_on_batch(pixels[:250])
            apart = float(np.abs(ask(entered) - answers[:250]).max())
            one = median_seconds(lambda ask=ask, x=entered[:1]: ask(x))
            many = median_seconds(lambda ask=ask, x=entered: ask(x))
            on = "LiteRT, without preprocessing"
            rows.append(row | {"on": on, "latency_ms": 1e3 * one, "per_second": 250 / many, "apart": apart})
    return rows


def lite(interpreter):
    """A call that runs a LiteRT interpreter on a batch of any size."""

    def ask(pixels):
        place = interpreter.get_input_details()[0]
        if tuple(place["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(place["index"], pixels.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(place["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return ask


def exports(data):
    """Size and test accuracy of each precision that `cifar-compare export` writes."""
    from ai_edge_litert.interpreter import Interpreter

    rows = []
    for name in NAMES:
        card, preprocessing = cc.load_card(name), parts(cc.load_model(name))[0]
        for digits in ("float32", "float16", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.tflite"
                cc.export(name, path, digits)
                ask, answers = lite(Interpreter(str(path), num_threads=os.cpu_count())), []
                for start in range(0, len(data.test), 250):
                    pixels = data.test.images[start : start + 250].astype("float32")
                    answers.append(ask(np.asarray(preprocessing.predict_on_batch(pixels))))
                result = cc.score(np.concatenate(answers), data.test.labels)
                row = {"model": name, "sha256": card["sha256"], "precision": digits, "bytes": path.stat().st_size}
            rows.append(row | {"accuracy": result.accuracy, "interval": list(result.interval)})
    return rows


def growth(data):
    """Seconds and peak memory of loading, training and evaluating, each in a process of its own."""
    rows = []
    for n in (5000, 10_000, 25_000, 45_000):
        rows += [once("train", n, 32), once("evaluate", n, 32)]
    rows += [once("train", 5000, size) for size in (64, 96, 128)] + [once("load", 60_000, 32)]
    return rows


def once(job, n, size):
    """Run one job of `grow` in a new process and return its row."""
    command = [sys.executable, __file__, "--grow", job, str(n), str(size)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def grow(job, n, size):
    """Do one job on n images at one input resolution; its seconds, with the first step's, and peak of memory."""
    start = time.perf_counter()
    data = cc.load_cifar10()
    if job != "load":
        few = cc.Split(data.train.images[:n], data.train.labels[:n])
        # At 32 px the custom CNN, above it MobileNetV2, whose size is what grows.
        model = cc.build_custom_cnn() if size == 32 else cc.build_mobilenet_v2(weights=None, input_size=size)
        name = "custom_cnn" if size == 32 else "mobilenet_v2"
        recipe = dataclasses.replace(cc.RECIPES[name], stages=((1, size),), averaging=None, head_epochs=0)
        start = time.perf_counter()
        if job == "train":
            with tempfile.TemporaryDirectory() as folder:
                cc.train(model, dataclasses.replace(data, train=few, validation=few_of(few)), recipe, folder)
        else:
            cc.evaluate(model, few)
    seconds = time.perf_counter() - start
    return {"job": job, "n": n, "size": size, "seconds": seconds, "peak_mib": peak_mib()}


def peak_mib():
    """Peak memory of this process, MiB; `resource` would count its parent's too, from which it was forked."""
    if not (path := Path("/proc/self/status")).exists():
        raise SystemExit("the part growth reads /proc/self/status, which only Linux has; name the other parts")
    status = path.read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def few_of(split):
    return cc.Split(split.images[:100], split.labels[:100])


def race(data):
    """Time to the published accuracy: steps of both recipes timed here, times how many either took."""
    for path, command in ((PUBLISHED, "bench.py --baseline"), (EXPERIMENTS, "experiments.py recipe")):
        if not path.exists():
            raise SystemExit(f"{path} is missing; run `python scripts/{command}` first (hours)")
    published = json.loads(PUBLISHED.read_text())
    history, cap = published["history"], published["cap"]
    reached = [row["epoch"] for row in history if row["val_accuracy"] >= TARGET]
    if not reached and len(history) < cap:
        raise SystemExit(
            f"{PUBLISHED} holds {len(history)} of {cap} epochs and none reached {TARGET:.2%}; "
            "run `python scripts/bench.py --baseline` first, which goes on from there"
        )
    epochs = reached[0] if reached else len(history)
    model = published_cnn()
    images, labels = data.train.images[:32].astype("float32"), data.train.labels[:32]
    theirs = median_seconds(lambda: model.train_on_batch(images, labels), repeats=20)
    steps = epochs * -(-len(data.train) // 32)
    runs = [row for row in json.loads(EXPERIMENTS.read_text()) if row["idea"] == "recipe"]
    recipe, model = short_recipe(), cc.build_custom_cnn(0, WIDTHS)
    an_epoch = -(-len(data.train) // recipe.batch_size)
    network = parts(model)[1]
    ours = sum(count * an_epoch * step_seconds(network, data, recipe, size) for count, size in recipe.stages)
    return {
        "target": TARGET,
        "published_reached": bool(reached),
        "published_hardware": published["hardware"],
        "published_epochs": epochs,
        "published_best": max(row["val_accuracy"] for row in history),
        "published_minutes": steps * theirs / 60,
        "ours_accuracies": [row["val_accuracy"] for row in runs],
        "ours_epochs": recipe.epochs,
        "ours_minutes": ours / 60,
    }


def start(data):
    """Seconds of the command for one picture, each in a new process, and of importing Keras alone."""
    picture = ROOT / "test_images" / "cat_test.jpg"
    command = [sys.executable, "-m", "cifar_compare", "predict", str(picture)]
    calls = {"command": command, "keras": [sys.executable, "-c", "import keras"]}
    return {
        name: median_seconds(lambda call=call: subprocess.run(call, capture_output=True, check=True), 3, 1)
        for name, call in calls.items()
    }


PARTS = {"start": start, "share": share, "inference": inference, "exports": exports, "growth": growth, "race": race}


def tables(record):
    """What is recorded, in Markdown."""
    told = [f"Measured on {record['hardware']}; medians of several."]
    if part := record.get("race"):
        verb, least = ("reached", "") if part["published_reached"] else ("did not reach", "at least ")
        ours = ", ".join(f"{100 * accuracy:.2f}" for accuracy in part["ours_accuracies"])
        told.append(
            f"**Time to the published accuracy.** The published CNN {verb} {100 * part['target']:.2f} % on the "
            f"validation split in {part['published_epochs']} epochs (best: {100 * part['published_best']:.2f} %; "
            f"trained on {part['published_hardware']}), which take {part['published_minutes']:.0f} min here. "
            "Our recipe in short (`docs/experiments.md`) takes "
            f"{part['ours_minutes']:.1f} min for {part['ours_epochs']} epochs and ends at {ours} % with its seeds: "
            f"**{least}{part['published_minutes'] / part['ours_minutes']:.1f} times faster**."
        )
    if part := record.get("share"):
        reached = part["training_gflops"] / part["peak_gflops"]
        told.append(
            f"**Share of the machine.** Large {part['dtype']} matrix products reach {part['peak_gflops']:.0f} GFLOP/s; "
            f"training the CNN at 32 px {part['training_gflops']:.0f} GFLOP/s, "
            f"**{100 * reached:.0f} %** of that, at "
            f"{part['images_per_second']:.0f} images a second. Preparing a batch takes "
            f"{100 * part['input_seconds'] / part['step_seconds']:.1f} % of a step. In place of "
            f"{part['step_seconds']:.2f} s a step takes "
            f"{', '.join(f'{seconds:.2f} s {how}' for how, seconds in part['variants'].items())}. Without either "
            f"it would thus reach {100 * reached * part['step_seconds'] / part['variants']['without either']:.0f} % of "
            "the peak: the rest of a step is BatchNorm and GELU, which work value by value, not by matrix products."
        )
    if part := record.get("start"):
        told.append(
            f"**Start.** `cifar-compare predict` takes {part['command']:.1f} s for one picture; importing Keras "
            f"takes {part['keras']:.1f} s of it."
        )
    if part := record.get("inference"):
        head = ["model", "on", "one picture, ms", "pictures a second", "largest difference of a probability"]
        rows = [
            [row["model"], row["on"], f"{row['latency_ms']:.1f}", f"{row['per_second']:,.0f}", f"{row['apart']:.1e}"]
            for row in part
        ]
        told.append("**Inference**\n\n" + table(head, rows))
    if part := record.get("exports"):
        head = ["model", "precision", "MB", "test accuracy, % [95 % interval]"]
        rows = [[row["model"], row["precision"], f"{row['bytes'] / 1e6:.1f}", percent(row["accuracy"])] for row in part]
        for row, cells in zip(part, rows, strict=True):
            cells[-1] += f" {interval(row['interval'])}"
        told.append("**Exports**\n\n" + table(head, rows))
    if part := record.get("growth"):
        head = ["what", "images", "input resolution, px", "seconds", "images a second", "peak memory, MiB"]
        rows = []
        for row in part:
            n, seconds = row["n"], row["seconds"]
            speed = [f"{seconds:.1f}", f"{n / seconds:,.0f}", f"{row['peak_mib']:,.0f}"]
            rows.append([row["job"], f"{n:,}", row["size"], *speed])
        told.append(
            "**Growth.** Time grows with the images, memory does not. At 32 px the CNN, above it MobileNetV2.\n\n"
            + table(head, rows)
        )
    return "\n\n".join(told)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--tables", action="store_true", help="print what is recorded and stop")
    parser.add_argument("--baseline", action="store_true", help="train the published CNN and stop")
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; there are {' '.join(PARTS)}")
    if given.grow:
        print(json.dumps(grow(given.grow[0], int(given.grow[1]), int(given.grow[2]))))
        return
    if given.baseline:
        train_published(cc.load_cifar10())
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if not given.tables:
        data = cc.load_cifar10()
        for name in given.parts or PARTS:
            print(f"measuring {name}")
            record |= {"hardware": hardware(), name: PARTS[name](data)}
            write_json(RECORD, record)
    if not record:
        raise SystemExit(f"{RECORD} is missing; run `python scripts/bench.py`")
    print(tables(record))


if __name__ == "__main__":
    main()
