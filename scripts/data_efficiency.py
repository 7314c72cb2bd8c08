"""Fill results/data_efficiency.csv: how accurate each way of training is with few labelled images.

    python scripts/data_efficiency.py            every cell that the table lacks, whole draws first (hours; resumes)
    python scripts/data_efficiency.py --choose   the search for the rule STEPS, into results/data_efficiency_rule.csv

Needs CIFAR-10. The training sets are nested: those of one draw are the first images of each class in an order that the
images' digests and the draw decide. Everything is chosen without the test split, on which each cell is measured once.
"""

import argparse
import ast
import csv
import dataclasses
import functools
import hashlib
import io
import time
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cifar_compare.data import digests
from cifar_compare.hardware import hardware
from cifar_compare.roles import logits_layer, parts
from cifar_compare.system import write

RESULTS = Path(__file__).resolve().parents[1] / "results"
TABLE = RESULTS / "data_efficiency.csv"
SIZES = (10, 25, 50, 100, 250, 500, 1000, 4500)  # images a class
ARMS = ("custom_cnn", "mobilenet_v2_scratch", "mobilenet_v2_head", "mobilenet_v2", "mobilenet_v2_upper_half")
HALF_SIZES = (10, 100, 1000)  # of the last arm, which is there to see whether the lower layers need to learn
# A training on n images takes this many steps of 100 images, for each square root of n: ten times the images are seen
# about a third as often. One of CANDIDATES, by `--choose`.
STEPS = 20
CANDIDATES, CHOSEN_ON = (10, 20, 40), 50  # steps; images a class
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # inverse strengths of the last layer's weight decay
FIELDS = ("images_a_class", "arm", "draw", "steps", "accuracy", "low", "high", "seconds", "hardware")


def draws(size):
    """How many training sets of a size there are."""
    return 5 if size <= 100 else 3


def training_set(split, size, draw):
    """The first `size` images of each class in the order of this draw."""
    keys = [hashlib.sha256(f"{draw} {digest}".encode()).digest() for digest in digests(split.images)]
    order = np.array(sorted(range(len(split)), key=keys.__getitem__))
    if (fewest := np.bincount(split.labels, minlength=len(split.classes)).min()) < size:
        raise ValueError(f"{size} images a class of a split that has {fewest} of one class, expected at most those")
    of_class = [order[split.labels[order] == label][:size] for label in range(len(split.classes))]
    return taken(split, np.stack(of_class, axis=1).ravel())  # class by class in turn, so that any part is balanced


def taken(split, indices):
    return cc.Split(split.images[indices], split.labels[indices], split.classes)


def held_out(split):
    """A training set without its last fifth, and that fifth."""
    cut = len(split) * 4 // 5
    return taken(split, slice(0, cut)), taken(split, slice(cut, None))


def recipe_of(arm, n, draw, steps):
    """The recipe for `n` images: that of the released model, in batches of 100 and as long as the rule says."""
    scratch = arm in ("custom_cnn", "mobilenet_v2_scratch")
    recipe = cc.RECIPES["custom_cnn" if arm == "custom_cnn" else "mobilenet_v2"]
    epochs = max(2, round(steps * n**0.5 / np.ceil(n / 100)))
    (_, small), (_, large) = recipe.stages
    first = epochs * 2 // 3 if scratch else epochs // 2
    rates = {"custom_cnn": recipe.learning_rate / 5, "mobilenet_v2_scratch": 2e-3}  # the CNN's is for batches of 500
    return dataclasses.replace(
        recipe,
        stages=((first, small), (epochs - first, large)),
        batch_size=100,
        learning_rate=rates.get(arm, recipe.learning_rate),
        augmentation=functools.partial(cc.augment, shift=4, cutout=8),
        averaging=(max(1, epochs // 8), 0.08) if scratch else None,
        seed=draw,
    )


def new_model(arm, seed):
    if arm == "custom_cnn":
        return cc.build_custom_cnn(seed)
    model = cc.build_mobilenet_v2(None if arm == "mobilenet_v2_scratch" else "imagenet", seed=seed)
    network = parts(model)[1]
    for layer in network.layers:
        if arm == "mobilenet_v2_scratch" and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = True
        elif arm == "mobilenet_v2_upper_half" and layer in network.layers[: len(network.layers) // 2]:
            layer.trainable = False
    return model


def train_cell(arm, data, shown, draw, steps, folder):
    """Train one cell; its answers to `data.test`, and the number of steps."""
    recipe, model = recipe_of(arm, len(data.train), draw, steps), new_model(arm, draw)
    cc.train(model, dataclasses.replace(data, validation=shown), recipe, folder)
    return cc.evaluate(model, data.test), recipe.epochs * -(-len(data.train) // recipe.batch_size)


def fit_head(data):
    """MobileNetV2 with its last layer alone fitted, as logistic regression; the penalty is chosen on a fifth."""
    part, rest = held_out(data.train)
    fitted = {c: regression(c).fit(features(part), part.labels) for c in PENALTIES}
    best = max(PENALTIES, key=lambda c: fitted[c].score(features(rest), rest.labels))
    head = regression(best).fit(features(data.train), data.train.labels)
    return cc.score(head.predict_proba(features(data.test)).astype("float32"), data.test.labels)


def regression(c):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def features(split):
    """What MobileNetV2's last layer would get, float32 (n, 1280)."""
    model = new_model("mobilenet_v2_head", 0)
    preprocessing, network = parts(model)
    body = keras.Sequential([preprocessing, keras.Model(network.inputs, logits_layer(network).input)])
    return body.predict(split.images, batch_size=250, verbose=0)


def cells():
    """(size, arm, draw), so that every draw is complete before the next begins."""
    for draw in range(max(map(draws, SIZES))):
        for size in SIZES:
            for arm in ARMS:
                if draw < draws(size) and (arm != "mobilenet_v2_upper_half" or size in HALF_SIZES):
                    yield size, arm, draw


def measure(size, arm, draw, data, runs):
    """One row of the table."""
    data = dataclasses.replace(data, train=training_set(data.train, size, draw))
    start = time.perf_counter()
    if arm == "mobilenet_v2_head":
        result, steps = fit_head(data), 0
    else:
        shown = held_out(data.train)[1]
        result, steps = train_cell(arm, data, shown, draw, STEPS, runs / f"{arm}-{size}-{draw}")
    low, high = result.interval
    told = result.accuracy, low, high, time.perf_counter() - start, hardware()
    return dict(zip(FIELDS, (size, arm, draw, steps, *told), strict=True))


def try_rules(data, runs):
    """Yield a row for each candidate of STEPS and arm: its accuracy on a fifth of a training set, which is held out."""
    part, rest = held_out(training_set(data.train, CHOSEN_ON, draw=0))
    data = dataclasses.replace(data, train=part, test=rest)
    for steps in CANDIDATES:
        for arm in ("custom_cnn", "mobilenet_v2"):
            result, taken_steps = train_cell(arm, data, rest, 0, steps, runs / f"rule-{arm}-{steps}")
            yield {"candidate": steps, "arm": arm, "steps": taken_steps, "n": len(rest), "accuracy": result.accuracy}


def read(path):
    """The rows of a table, numbers as numbers; none where it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    words = ("arm", "hardware")
    return [{name: cell if name in words else ast.literal_eval(cell) for name, cell in row.items()} for row in rows]


def save(path, rows):
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(path, text.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="search for the rule")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so long")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: %(default)s)")
    given, start = parser.parse_args(), time.monotonic()
    data = cc.load_cifar10()
    if given.choose:
        save(RESULTS / "data_efficiency_rule.csv", list(try_rules(data, given.runs)))
        return
    rows = read(TABLE)
    there = {(row["images_a_class"], row["arm"], row["draw"]) for row in rows}
    missing = [cell for cell in cells() if cell not in there]
    print(f"{len(there)} cells are there, {len(missing)} are missing")
    for cell in missing:
        if time.monotonic() - start > 60 * given.minutes:
            break
        rows.append(measure(*cell, data, given.runs))
        print(rows[-1])
        save(TABLE, sorted(rows, key=lambda row: (row["images_a_class"], ARMS.index(row["arm"]), row["draw"])))


if __name__ == "__main__":
    main()
