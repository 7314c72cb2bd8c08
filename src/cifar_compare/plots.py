"""Draw results as matplotlib figures: display them in a notebook or save them with `figure.savefig`.

Most take one result, history or answer, or a dict of several by name; what is something else, empty or holds NaN raises
ValueError. The figures are closed in pyplot: a notebook shows one where it is the last expression of a cell or given to
`display`, and only there. Those of the low-resolution study are in `study.plots`.
"""

import math
import numbers
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from . import checks
from .data import CLASSES
from .evaluation import Result, calibration_bins, proportion_interval
from .system import printable

# Okabe & Ito's palette, which people with any common colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "0.35"

# Decorates what draws: names of files and models may hold dollar signs, which Matplotlib would read as formulas.
literal_text = plt.rc_context({"text.parse_math": False})


@literal_text
def learning_curves(history):
    """Loss, nats, and accuracy, %, by epoch: dashed on the training images, solid on the validation images.

    The loss of epoch 0, the head alone, is left out: without label smoothing it is on another scale.

    Args:
        history: list of dicts, one an epoch, as `train` returns it; or a Keras `History` with loss and accuracy; or a
            dict of such by name.
    """
    named = [(name, _epochs(each)) for name, each in _pairs(history)]
    figure, axes = new_figure(1, 2, width=10, height=4)
    for (name, rows), colour in zip(named, cycle(COLOURS), strict=False):
        for ax, measure, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
            for key, part, style in ((measure, "training", "--"), (f"val_{measure}", "validation", "-")):
                drawn = [row for row in rows if row.get(key) is not None and (row["epoch"] or measure != "loss")]
                points = [(row["epoch"], scale * row[key]) for row in drawn]
                if points:
                    label = f"{name}, {part}" if name else part
                    ax.plot(*np.transpose(points), style, color=colour, label=label, marker=".")
    for ax, label in zip(axes, ("loss, nats", "accuracy, %"), strict=True):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    axes[0 if axes[0].lines else 1].legend()
    return figure


@literal_text
def confusion(result):
    """How many images of each true class (row) were taken for each class (column).

    Args:
        result: `Result`, or a dict of them by name.
    """
    named = _results(result)
    figure, axes = new_figure(1, len(named), width=7 * len(named), height=6.6, squeeze=False)
    for ax, (name, each) in zip(axes.flat, named, strict=True):
        # The square root lets errors show beside the ten to a hundred times more frequent right answers.
        scale = {"norm": PowerNorm(0.5, vmin=0, vmax=max(each.confusion.max(), 1))}
        display = ConfusionMatrixDisplay(each.confusion, display_labels=each.classes)
        display.plot(ax=ax, cmap="Blues", colorbar=False, xticks_rotation=45, im_kw=scale)
        plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
        ax.set(
            xlabel="predicted class",
            ylabel="true class",
            title=_title(name, f"{100 * each.accuracy:.2f} % right"),
        )
    return figure


@literal_text
def reliability(result):
    """Accuracy by the probability of the answer, in 15 bins with 95 % intervals, above the number of answers.

    Args:
        result: `Result`, or a dict of them by name. Below the diagonal a model is over-confident.
    """
    named = _results(result)
    options = {"sharex": True, "sharey": "row", "height_ratios": (3, 1), "squeeze": False}
    figure, axes = new_figure(2, len(named), width=5 * len(named), height=6, **options)
    for (upper, lower), (name, each) in zip(axes.T, named, strict=True):
        counts, accuracies, confidences = calibration_bins(each.probabilities, each.labels)
        filled, width = counts > 0, 100 / len(counts)
        centres = (np.arange(len(counts)) + 0.5) * width
        upper.bar(centres[filled], 100 * accuracies[filled], width, color=COLOURS[5], edgecolor="white")
        whiskers(upper, 100 * confidences[filled], (accuracies * counts)[filled], counts[filled])
        (diagonal,) = upper.plot([0, 100], [0, 100], "--", color=_GREY, label="perfect calibration")
        upper.set(ylim=(0, 100), ylabel="accuracy, %", title=_title(name, f"ECE {100 * each.ece:.2f} %"))
        lower.bar(centres, counts, width, color=_GREY, edgecolor="white")
        lower.set(xlim=(0, 100), xlabel="probability of the answer, %", ylabel="answers", yscale="log")
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.yaxis.set_minor_formatter("")
        lower.set_ylim(bottom=0.5)
    figure.legend(handles=[diagonal], loc="outside upper right")
    return figure


@literal_text
def per_class(results):
    """Recall of each class, %, with 95 % Clopper-Pearson intervals. The axis need not start at 0 and says so.

    Args:
        results: `Result`, or a dict of them by name, all about the same classes.
    """
    named = _results(results)
    classes = _shared_classes(named)
    figure, ax = new_figure(1, 1, width=10, height=4.2)
    width, lowest = 0.8 / len(named), 100
    for i, ((name, each), colour) in enumerate(zip(named, cycle(COLOURS), strict=False)):
        at = np.arange(len(classes)) + (i - (len(named) - 1) / 2) * width
        ax.bar(at, 100 * each.recall, width, color=colour, label=name, edgecolor="white")
        lowest = min(lowest, whiskers(ax, at, np.diag(each.confusion), each.confusion.sum(axis=1)).min())
    bottom = 10 * np.floor(lowest / 10)
    ax.set(ylim=(bottom, 100), ylabel="recall, %" + (f" (axis starts at {bottom:.0f})" if bottom else ""))
    ax.set_xticks(range(len(classes)), classes)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    if named[0][0]:
        figure.legend(loc="outside upper center", ncols=len(named))
    return figure


@literal_text
def gallery(images, titles=None, columns=8):
    """Small pictures in a grid, pixels kept as sharp squares.

    Args:
        images: uint8 or float in [0, 255], (n, h, w, 3), or a list of (h, w, 3) of any sizes.
        titles: n texts, one above each picture.
        columns: int, pictures in a row.
    """
    if isinstance(images, list | tuple):
        images = [_picture(image, f"image {i}") for i, image in enumerate(images)]
    if not isinstance(images, list) or len({image.shape for image in images}) < 2:
        images = checks.images(images)
    ordered = isinstance(titles, list | tuple) or np.ndim(titles) == 1  # a set has no order, a dict other keys
    if titles is not None and (not ordered or len(titles) != len(images)):
        given = f"got {len(images)} images and titles {printable(repr(titles), 80)}"
        raise ValueError(f"{given}, expected a list of one title for each")
    titles = None if titles is None else list(titles)
    columns = min(checks.whole(columns, "columns"), len(images))
    rows = -(-len(images) // columns)
    lines = 0 if titles is None else max(str(title).count("\n") + 1 for title in titles)
    size = {"width": 1.4 * columns, "height": (1.4 + 0.2 * lines) * rows}
    figure, axes = new_figure(rows, columns, **size, squeeze=False, subplot_kw={"frame_on": False})
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        _show(ax, image, "" if titles is None else titles[i])
    return figure


@literal_text
def probabilities(answer, pictures=None):
    """The probability of each class, %, to the right of the pictures it was asked for.

    Args:
        answer: `Answer` as of `predict`, or a dict of them by name, all about the same classes.
        pictures: dict of uint8 or float (h, w, 3) in [0, 255] by title.
    """
    named = _pairs(answer)
    if any(np.ndim(getattr(each, "probabilities", None)) != 1 for _, each in named):
        raise _unexpected(answer, "an Answer of `predict`")
    for name, each in named:
        checks.probabilities(np.asarray(each.probabilities)[None], f"probabilities of {name or 'the answer'}")
    classes = _shared_classes(named)
    if not isinstance(pictures or {}, dict):
        raise ValueError(f"pictures are {type(pictures).__name__}, expected a dict of pictures by title")
    pictures = {title: _picture(pixels, f"picture {title!r}") for title, pixels in (pictures or {}).items()}
    widths = [*(3 for _ in pictures), 5]
    options = {"width_ratios": widths, "squeeze": False}
    figure, ((*left, ax),) = new_figure(1, len(widths), width=sum(widths), height=3.6, **options)
    for place, (title, pixels) in zip(left, pictures.items(), strict=True):
        _show(place, pixels, title, interpolation="auto")  # smooth unless much enlarged
    height = 0.8 / len(named)
    for i, ((name, each), colour) in enumerate(zip(named, cycle(COLOURS), strict=False)):
        at = np.arange(len(classes)) + (i - (len(named) - 1) / 2) * height
        ax.barh(at, 100 * each.probabilities, height, color=colour, label=name, edgecolor="white")
    ax.set(xlim=(0, 100), ylim=(len(classes) - 0.5, -0.5), xlabel="probability, %")
    ax.set_yticks(range(len(classes)), classes)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    if named[0][0]:
        figure.legend(loc="outside upper right", ncols=len(named))
    return figure


@literal_text
def evidence(pixels, maps):
    """What each place of a feature map adds to a logit, nats, over the part of the grey picture that is seen.

    Args:
        pixels: uint8 or float in [0, 255], (h, w, 3).
        maps: float (h', w') as of `evidence_map`, or a dict of them by title.
    """
    pixels, maps = _picture(pixels, "pixels"), {name: np.asarray(each) for name, each in _pairs(maps)}
    for name, each in maps.items():
        if each.ndim != 2 or each.size == 0 or each.dtype.kind not in "iuf" or not np.isfinite(each).all():
            given = f"map {name!r} is {each.dtype} {each.shape}"
            raise ValueError(f"{given}, expected finite floats (h, w) as of `evidence_map`")
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    grey = np.mean(pixels, axis=-1)[top : top + side, left : left + side]
    limit = max(np.abs(each).max() for each in maps.values())
    figure, axes = new_figure(1, len(maps), width=4 * len(maps) + 1, height=4, squeeze=False)
    for ax, (title, each) in zip(axes.flat, maps.items(), strict=True):
        # Sharp squares: a smooth enlargement would promise a precision that a few places do not have.
        drawn = ax.imshow(each, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest", alpha=0.6, zorder=1)
        ax.imshow(grey, cmap="gray", vmin=-255, vmax=255, extent=drawn.get_extent())  # pale, so that the colours show
        for (row, column), value in np.ndenumerate(each):
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center")
        ax.set(xticks=[], yticks=[], title=title)
    figure.colorbar(drawn, ax=axes, label="added to the logit, nats")
    return figure


@literal_text
def accuracy_against_cost(rows):
    """Accuracy, %, with its 95 % interval against multiply-adds an image.

    Args:
        rows: dict of (multiply-adds, `Result`) by name.
    """
    if (
        not isinstance(rows, dict)
        or not rows
        or not all(isinstance(row, tuple) and len(row) == 2 for row in rows.values())
    ):
        raise ValueError(f"got {printable(repr(rows), 80)}, expected a dict of (multiply-adds, Result) by name")
    _results({name: result for name, (_, result) in rows.items()})
    for name, (cost, _) in rows.items():
        if not (isinstance(cost, numbers.Real) and 0 < cost < math.inf):
            raise ValueError(f"multiply-adds of {name} are {cost!r}, expected a number above 0")
    figure, ax = new_figure(1, 1, width=6.5, height=4.2)
    for (name, (cost, result)), colour in zip(rows.items(), cycle(COLOURS), strict=False):
        n = len(result.labels)
        whiskers(ax, [cost / 1e6], [result.accuracy * n], [n], color=colour, marker="o")
        ax.annotate(name, (cost / 1e6, 100 * result.accuracy), (8, 0), textcoords="offset points", va="center")
    ax.set(xlabel="multiply-adds an image, millions", ylabel="accuracy, %")
    ax.set_xlim(0, 1.35 * max(cost for cost, _ in rows.values()) / 1e6)
    ax.grid(alpha=0.3)
    return figure


def new_figure(rows, columns, width, height, **options):
    """A figure of `width` × `height` inches, closed in pyplot, and its axes; options as of `plt.subplots`."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def whiskers(ax, x, successes, totals, color="black", marker=""):
    """Draw the 95 % Clopper-Pearson intervals of proportions, %, at `x`; returns their lower ends."""
    pairs = np.rint(np.transpose([successes, totals])).astype(int)
    low, high = 100 * np.transpose([proportion_interval(*pair) for pair in pairs])
    middle = 100 * pairs[:, 0] / np.maximum(pairs[:, 1], 1)
    ax.errorbar(x, middle, (middle - low, high - middle), fmt=marker, ls="none", color=color, capsize=2, lw=1)
    return low


def _pairs(given):
    """Pairs (name, thing) of a dict, or of the one thing given, whose name is then empty."""
    if isinstance(given, dict) and not given:
        raise ValueError("got an empty dict, expected a dict by name with at least one entry")
    return list(given.items()) if isinstance(given, dict) else [("", given)]


def _unexpected(given, expected):
    return ValueError(f"got {printable(repr(given), 80)}, expected {expected}, or a dict of them by name")


def _results(given):
    named = _pairs(given)
    if not all(isinstance(each, Result) for _, each in named):
        raise _unexpected(given, "a Result of `evaluate` or `score`")
    return named


def _shared_classes(named):
    """The names of the classes, which are the same for all that one panel shows."""
    if any(isinstance(getattr(each, "classes", None), set | frozenset) for _, each in named):
        raise ValueError("classes are a set, which has no order: expected a list of names, in the labels' order")
    found = {tuple(getattr(each, "classes", None) or CLASSES) for _, each in named}
    if len(found) > 1:
        given = " and ".join(", ".join(classes) for classes in sorted(found))
        raise ValueError(f"got results about different classes ({given}): draw them one by one")
    return found.pop()


def _epochs(history):
    """A history of ours or of Keras as rows, one an epoch, with finite numbers."""
    rows = history
    if isinstance(getattr(history, "history", None), dict) and hasattr(history, "epoch"):
        columns, epochs = history.history, list(history.epoch)
        if short := [key for key, values in columns.items() if len(values) != len(epochs)]:
            given = f"the History has {len(epochs)} epochs, but not as many values of {', '.join(short)}"
            raise ValueError(f"{given}: validate after every epoch (validation_freq=1)")
        # Keras counts epochs from 0.
        rows = [{"epoch": epoch + 1} | {key: columns[key][i] for key in columns} for i, epoch in enumerate(epochs)]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise _unexpected(history, "a list of dicts, one an epoch, as of `train`, or a Keras History")
    for row in rows:
        for key in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy"):
            value = row.get(key)
            number = isinstance(value, numbers.Real) and math.isfinite(value)
            if not number and (value is not None or key == "epoch"):
                raise ValueError(f"{key} is {value!r} in epoch {row['epoch']}, expected a finite number")
    for key in ("loss", "accuracy"):
        if all(row.get(key) is None for row in rows):
            given = f"the history has {', '.join(rows[0])}, but no {key}"
            raise ValueError(f"{given}: compile a Keras model with a loss and metrics=['accuracy']")
    return rows


def _picture(pixels, what):
    """One picture as an array (h, w, 3), under the rule for pixels that holds everywhere."""
    try:
        array = np.asarray(pixels)
    except ValueError:
        raise ValueError(f"{what} has rows that differ in length, expected (height, width, 3)") from None
    fault = checks.fault_of_pixels(array)
    if fault or array.ndim != 3:
        raise ValueError(f"{what} {fault or f'has shape {array.shape}, expected (height, width, 3)'}")
    return array


def _show(ax, pixels, title, interpolation="nearest"):
    ax.imshow(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), interpolation=interpolation)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)


def _title(name, text):
    return f"{name}: {text}" if name else text
