"""Train with few labelled images: nested training sets, one rule for all recipes, a last layer fitted alone, a plot.

>>> few = cc.few_images.training_set(data.train, 10)  # 10 images a class
>>> model = cc.few_images.new_model("mobilenet_v2")
>>> cc.train(model, dataclasses.replace(data, train=few), cc.few_images.recipe("mobilenet_v2", len(few)))
"""

import csv
import dataclasses
import functools
import hashlib
import math
from pathlib import Path

import keras
import numpy as np

from . import checks
from .augmentation import augment
from .data import Split, digests
from .models import build_custom_cnn, build_mobilenet_v2
from .recipes import RECIPES
from .roles import logits_layer, parts
from .system import printable

ARMS = {
    "mobilenet_v2": "MobileNetV2, fine-tuned",
    "mobilenet_v2_upper_half": "MobileNetV2, upper half fine-tuned",
    "mobilenet_v2_head": "MobileNetV2, last layer fitted",
    "custom_cnn": "custom CNN, from scratch",
    "mobilenet_v2_scratch": "MobileNetV2, from scratch",
}
# A training on n images takes this many steps of 100 images for each square root of n, so that of ten times the images
# each is seen about a third as often. Chosen by `scripts/data_efficiency.py --choose`.
STEPS = 10
BATCH = 100
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # inverse strengths of the last layer's weight decay
# Of the rows of results/data_efficiency.csv; accuracy on the test split with its 95 % interval, seconds of training.
COLUMNS = {
    **{"images_a_class": int, "arm": str, "draw": int, "steps": int},
    **{"accuracy": float, "low": float, "high": float, "seconds": float, "hardware": str},
}


def training_set(split, size, draw=0):
    """The first `size` images of each class, in an order that the images' digests and the draw decide.

    A larger set of the same draw contains the smaller ones, whatever the order of the images in the split.

    Args:
        split: `Split`.
        size: int, images a class.
        draw: int, which order; another one gives other images.

    Returns:
        `Split`, the classes in turn, so that its beginning is balanced, too.

    Raises:
        ValueError: a class has fewer images, or the images are not as stored, uint8.
    """
    split = Split(*checks.split(split))
    checks.whole(size, "size")
    checks.whole(draw, "draw", 0)
    keys = [hashlib.sha256(f"{draw} {digest}".encode()).digest() for digest in digests(split.images)]
    order = np.array(sorted(range(len(split)), key=keys.__getitem__))
    if (fewest := np.bincount(split.labels, minlength=len(split.classes)).min()) < size:
        raise ValueError(f"{size} images a class of a split that has {fewest} of one class, expected at most those")
    of_class = [order[split.labels[order] == label][:size] for label in range(len(split.classes))]
    return part_of(split, np.stack(of_class, axis=1).ravel())


def part_of(split, indices):
    """The images of a split at `indices`, anything that indexes an array."""
    return Split(split.images[indices], split.labels[indices], split.classes)


def held_out(split):
    """A training set without its last fifth, and that fifth: two `Split`s."""
    cut = len(split) * 4 // 5
    return part_of(split, slice(0, cut)), part_of(split, slice(cut, None))


def recipe(arm, n, seed=0, steps=STEPS):
    """The recipe for a training on few images.

    Args:
        arm: str, one of ARMS; "mobilenet_v2_head" has none, see `fit_last_layer`.
        n: int, number of training images.
        seed: int, of data order and augmentation.
        steps: int, how many steps, of 100 images each, for each square root of `n`.

    Returns:
        `Recipe`: that of the released model, in batches of 100, as long as the rule says.

    Raises:
        ValueError: another arm, or a number below 1.
    """
    _check(arm, [arm for arm in ARMS if arm != "mobilenet_v2_head"])
    checks.whole(n, "n")
    checks.whole(steps, "steps")
    scratch = arm in ("custom_cnn", "mobilenet_v2_scratch")
    released = RECIPES["custom_cnn" if arm == "custom_cnn" else "mobilenet_v2"]
    epochs = max(2, round(steps * n**0.5 / math.ceil(n / BATCH)))
    (_, small), (_, large) = released.stages
    first = epochs * 2 // 3
    rates = {"custom_cnn": released.learning_rate * BATCH / released.batch_size, "mobilenet_v2_scratch": 2e-3}
    return dataclasses.replace(
        released,
        stages=((first, small), (epochs - first, large)),
        batch_size=BATCH,
        learning_rate=rates.get(arm, released.learning_rate),
        augmentation=functools.partial(augment, shift=4, cutout=8),
        averaging=(max(1, epochs // 8), 0.08) if scratch else None,
        seed=seed,
    )


def new_model(arm, seed=0):
    """The model that the training of an arm begins with; `seed` is that of its first weights. Takes one of ARMS."""
    _check(arm, ARMS)
    if arm == "custom_cnn":
        return build_custom_cnn(seed)
    model = build_mobilenet_v2(None if arm == "mobilenet_v2_scratch" else "imagenet", seed=seed)
    network = parts(model)[1]
    for layer in network.layers:
        if arm == "mobilenet_v2_scratch" and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = True
        elif arm == "mobilenet_v2_upper_half" and layer in network.layers[: len(network.layers) // 2]:
            layer.trainable = False
    return model


def fit_last_layer(model, split):
    """Fit the last layer of a model, in place, as logistic regression on what the others make of the images.

    The penalty, one of PENALTIES, is chosen on the split's last fifth; then all of it is fitted.

    Args:
        model: as of `build_mobilenet_v2`.
        split: `Split` to fit, as of `training_set`: the classes in turn, so that its last fifth has all of them.

    Raises:
        ValueError: a class is missing in the first four fifths, or the model has another number of classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    preprocessing, network = parts(model)
    last = logits_layer(network)
    images, labels, classes = checks.split(split)
    cut, outputs = len(labels) * 4 // 5, last.kernel.shape[1]
    found = len(np.unique(labels[:cut]))
    if not found == len(classes) == outputs:
        given = f"{cut} of the {len(labels)} images show {found} of {len(classes)} classes, the model has {outputs}"
        raise ValueError(f"{given}: expected images of all classes, in turn, as `training_set` gives them")
    body = keras.Sequential([preprocessing, keras.Model(network.inputs, last.input)])
    given = body.predict(images, batch_size=250, verbose=0)
    biased = {"fit_intercept": last.use_bias, "max_iter": 1000}
    tried = {
        c: make_pipeline(StandardScaler(with_mean=last.use_bias), LogisticRegression(C=c, **biased)) for c in PENALTIES
    }
    shares = {c: each.fit(given[:cut], labels[:cut]).score(given[cut:], labels[cut:]) for c, each in tried.items()}
    scaler, regression = tried[max(PENALTIES, key=shares.get)].fit(given, labels)
    kernel = regression.coef_ / scaler.scale_
    last.kernel.assign(kernel.T)
    if last.use_bias:
        last.bias.assign(regression.intercept_ - kernel @ scaler.mean_)


def read(table):
    """The rows of a table such as results/data_efficiency.csv: list of dicts with COLUMNS, none where it is missing.

    Raises ValueError where it is not such a table.
    """
    if not Path(table).exists():
        return []
    with open(table, newline="", encoding="utf-8") as file:
        try:
            return [{name: kind(row[name]) for name, kind in COLUMNS.items()} for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{table} is damaged ({error}), expected the columns {', '.join(COLUMNS)}") from None


def images_needed(rows, arm, accuracy):
    """How many images a class an arm needs for an accuracy, read off the line between its measured means.

    Args:
        rows: list of dicts as of `read`.
        arm: str, one of ARMS.
        accuracy: from 0 to 1.

    Returns:
        float; infinity where no measured size is enough, NaN where the smallest is more than enough.
    """
    sizes, means, _ = _line(rows, arm, "images_a_class")
    if accuracy > means.max():
        return math.inf
    rising = np.diff(np.maximum.accumulate(means), prepend=-1) > 0  # the least number that is enough
    return float(np.exp(np.interp(accuracy, means[rising], np.log(sizes[rising]), left=np.nan)))


def plot(rows, by="images_a_class"):
    """Accuracy, %, against images a class or against seconds: a line for each arm through the means over draws.

    Whiskers go from the lowest to the highest end of the draws' 95 % intervals.

    Args:
        rows: list of dicts as of `read`.
        by: "images_a_class" or "seconds".
    """
    from .plots import COLOURS, new_figure

    rows = _checked(rows)
    if by not in (labels := {"images_a_class": "training images a class", "seconds": "training time, seconds"}):
        raise ValueError(f"by is {by!r:.80}, expected {' or '.join(labels)}")
    figure, ax = new_figure(1, 1, width=7, height=4.6)
    colours = [COLOURS[i] for i in (1, 4, 2, 0, 3)]  # CNN and MobileNetV2 have those of the other plots
    for arm, colour in zip(ARMS, colours, strict=True):
        if any(row["arm"] == arm for row in rows):
            x, means, ends = _line(rows, arm, by)
            whiskers = np.abs(ends - means)
            ax.errorbar(x, 100 * means, 100 * whiskers, marker="o", color=colour, capsize=2, label=ARMS[arm])
    ax.set(xscale="log", xlabel=labels[by], ylabel="accuracy on the test images, %", ylim=(0, 100))
    if by == "images_a_class":
        ax.set_xticks(sorted({row[by] for row in rows}), sorted({row[by] for row in rows}), minor=False)
        ax.minorticks_off()
    ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _line(rows, arm, by):
    """Where an arm was measured: sizes (or mean seconds), mean accuracies, and the ends (2, sizes) of its intervals."""
    of_size = {}
    for row in _checked(rows):
        if row["arm"] == arm:
            of_size.setdefault(row["images_a_class"], []).append(row)
    if not of_size:
        raise ValueError(f"no row is about {arm!r:.80}, expected one of {', '.join({row['arm'] for row in rows})}")
    of_size = [of_size[size] for size in sorted(of_size)]
    x, means = ([float(np.mean([row[key] for row in each])) for each in of_size] for key in (by, "accuracy"))
    ends = [[end(row[key] for row in each) for each in of_size] for end, key in ((min, "low"), (max, "high"))]
    return np.array(x), np.array(means), np.array(ends)


def _checked(rows):
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and set(COLUMNS) <= set(r) for r in rows):
        raise ValueError(f"got {printable(repr(rows), 80)}, expected a list of rows as of `read`")
    return rows


def _check(arm, arms):
    if arm not in arms:
        raise ValueError(f"the arm is {arm!r:.80}, expected one of {', '.join(arms)}")
