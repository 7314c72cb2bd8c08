"""Draw results as matplotlib figures: display them in a notebook or save them with `figure.savefig`.

Each takes one result or history, or a dict of several by name, or the rows of `study`. The figures are closed in
pyplot: a notebook shows one where it is the last expression of a cell or given to `display`, and only there.
"""

from itertools import cycle
from operator import itemgetter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from .data import CLASSES
from .evaluation import Result, calibration_bins, proportion_interval
from .low_res import FILES, WAYS
from .pictures import Answer

# Okabe & Ito's palette, which people with any common colour blindness can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "0.35"


def learning_curves(history):
    """Loss, nats, and accuracy, %, by epoch: dashed on the training images, solid on the validation images.

    The loss of epoch 0, the head alone, is left out: without label smoothing it is on another scale.

    Args:
        history: list of dicts, one an epoch, as `train` returns it, or a dict of such lists by name.
    """
    figure, axes = _figure(1, 2, width=10, height=4)
    for (name, rows), colour in zip(_named(history, list), cycle(_COLOURS), strict=False):
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
    axes[0].legend()
    return figure


def confusion(result):
    """How many images of each true class (row) were taken for each class (column).

    Args:
        result: `Result`, or a dict of them by name.
    """
    named = _named(result, Result)
    figure, axes = _figure(1, len(named), width=7 * len(named), height=6.6, squeeze=False)
    for ax, (name, each) in zip(axes.flat, named, strict=True):
        # The square root lets errors show beside the ten to a hundred times more frequent right answers.
        scale = {"norm": PowerNorm(0.5, vmin=0, vmax=max(each.confusion.max(), 1))}
        display = ConfusionMatrixDisplay(each.confusion, display_labels=CLASSES)
        display.plot(ax=ax, cmap="Blues", colorbar=False, xticks_rotation=45, im_kw=scale)
        plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
        ax.set(
            xlabel="predicted class",
            ylabel="true class",
            title=_title(name, f"{100 * each.accuracy:.2f} % right"),
        )
    return figure


def reliability(result):
    """Accuracy by the probability of the answer, in 15 bins with 95 % intervals, above the number of answers.

    Args:
        result: `Result`, or a dict of them by name. Below the diagonal a model is over-confident.
    """
    named = _named(result, Result)
    options = {"sharex": True, "sharey": "row", "height_ratios": (3, 1), "squeeze": False}
    figure, axes = _figure(2, len(named), width=5 * len(named), height=6, **options)
    for (upper, lower), (name, each) in zip(axes.T, named, strict=True):
        counts, accuracies, confidences = calibration_bins(each.probabilities, each.labels)
        filled, width = counts > 0, 100 / len(counts)
        centres = (np.arange(len(counts)) + 0.5) * width
        upper.bar(centres[filled], 100 * accuracies[filled], width, color=_COLOURS[5], edgecolor="white")
        _whiskers(upper, 100 * confidences[filled], (accuracies * counts)[filled], counts[filled])
        (diagonal,) = upper.plot([0, 100], [0, 100], "--", color=_GREY, label="perfect calibration")
        upper.set(ylim=(0, 100), ylabel="accuracy, %", title=_title(name, f"ECE {100 * each.ece:.2f} %"))
        lower.bar(centres, counts, width, color=_GREY, edgecolor="white")
        lower.set(xlim=(0, 100), xlabel="probability of the answer, %", ylabel="answers", yscale="log")
        lower.set_ylim(bottom=0.5)
    figure.legend(handles=[diagonal], loc="outside upper right")
    return figure


def per_class(results):
    """Recall of each class, %, with 95 % Clopper-Pearson intervals. The axis need not start at 0 and says so.

    Args:
        results: `Result`, or a dict of them by name.
    """
    named = _named(results, Result)
    figure, ax = _figure(1, 1, width=10, height=4.2)
    width, lowest = 0.8 / len(named), 100
    for i, ((name, each), colour) in enumerate(zip(named, cycle(_COLOURS), strict=False)):
        at = np.arange(len(CLASSES)) + (i - (len(named) - 1) / 2) * width
        ax.bar(at, 100 * each.recall, width, color=colour, label=name, edgecolor="white")
        lowest = min(lowest, _whiskers(ax, at, np.diag(each.confusion), each.confusion.sum(axis=1)).min())
    bottom = 10 * np.floor(lowest / 10)
    ax.set(ylim=(bottom, 100), ylabel="recall, %" + (f" (axis starts at {bottom:.0f})" if bottom else ""))
    ax.set_xticks(range(len(CLASSES)), CLASSES)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    if named[0][0]:
        figure.legend(loc="outside upper center", ncols=len(named))
    return figure


def gallery(images, titles=None, columns=8):
    """Small pictures in a grid, pixels kept as sharp squares.

    Args:
        images: uint8 or float in [0, 255], (n, h, w, 3), or a list of (h, w, 3) of any sizes.
        titles: n texts, one above each picture.
        columns: pictures in a row.

    Raises:
        ValueError: there is no picture, or not one title for each.
    """
    if not len(images) or (titles is not None and len(titles) != len(images)):
        given = f"{len(images)} images" + ("" if titles is None else f" and {len(titles)} titles")
        raise ValueError(f"got {given}, expected at least one image and as many titles as images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = 0 if titles is None else max(str(title).count("\n") + 1 for title in titles)
    size = {"width": 1.4 * columns, "height": (1.4 + 0.2 * lines) * rows}
    figure, axes = _figure(rows, columns, **size, squeeze=False, subplot_kw={"frame_on": False})
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        _show(ax, image, "" if titles is None else titles[i])
    return figure


def probabilities(answer, pictures=None):
    """The probability of each class, %, to the right of the pictures it was asked for.

    Args:
        answer: `Answer` as of `predict`, or a dict of them by name.
        pictures: dict of uint8 or float (h, w, 3) in [0, 255] by title.
    """
    named, pictures = _named(answer, Answer), pictures or {}
    widths = [*(3 for _ in pictures), 5]
    options = {"width_ratios": widths, "squeeze": False}
    figure, ((*left, ax),) = _figure(1, len(widths), width=sum(widths), height=3.6, **options)
    for place, (title, pixels) in zip(left, pictures.items(), strict=True):
        _show(place, pixels, title, interpolation="auto")  # smooth unless much enlarged
    height = 0.8 / len(named)
    for i, ((name, each), colour) in enumerate(zip(named, cycle(_COLOURS), strict=False)):
        at = np.arange(len(CLASSES)) + (i - (len(named) - 1) / 2) * height
        ax.barh(at, 100 * each.probabilities, height, color=colour, label=name, edgecolor="white")
    ax.set(xlim=(0, 100), ylim=(len(CLASSES) - 0.5, -0.5), xlabel="probability, %")
    ax.set_yticks(range(len(CLASSES)), CLASSES)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    if named[0][0]:
        figure.legend(loc="outside upper right", ncols=len(named))
    return figure


def evidence(pixels, maps):
    """What each place of a feature map adds to a logit, nats, over the part of the grey picture that is seen.

    Args:
        pixels: uint8 or float in [0, 255], (h, w, 3).
        maps: float (h', w') as of `evidence_map`, or a dict of them by title.
    """
    maps = maps if isinstance(maps, dict) else {"": maps}
    height, width = np.shape(pixels)[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    grey = np.mean(pixels, axis=-1)[top : top + side, left : left + side]
    limit = max(np.abs(each).max() for each in maps.values())
    figure, axes = _figure(1, len(maps), width=4 * len(maps) + 1, height=4, squeeze=False)
    for ax, (title, each) in zip(axes.flat, maps.items(), strict=True):
        # Sharp squares: a smooth enlargement would promise a precision that a few places do not have.
        drawn = ax.imshow(each, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest", alpha=0.6, zorder=1)
        ax.imshow(grey, cmap="gray", vmin=-255, vmax=255, extent=drawn.get_extent())  # pale, so that the colours tell
        for (row, column), value in np.ndenumerate(each):
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center")
        ax.set(xticks=[], yticks=[], title=title)
    figure.colorbar(drawn, ax=axes, label="added to the logit, nats")
    return figure


def accuracy_against_cost(rows):
    """Accuracy, %, with its 95 % interval against multiply-adds an image.

    Args:
        rows: dict of (multiply-adds, `Result`) by name.
    """
    figure, ax = _figure(1, 1, width=6.5, height=4.2)
    for (name, (cost, result)), colour in zip(rows.items(), cycle(_COLOURS), strict=False):
        n = len(result.labels)
        _whiskers(ax, [cost / 1e6], [result.accuracy * n], [n], color=colour, marker="o")
        ax.annotate(name, (cost / 1e6, 100 * result.accuracy), (8, 0), textcoords="offset points", va="center")
    ax.set(xlabel="multiply-adds an image, millions", ylabel="accuracy, %")
    ax.set_xlim(0, 1.35 * max(cost for cost, _ in rows.values()) / 1e6)
    ax.grid(alpha=0.3)
    return figure


def content_resolution(rows):
    """Accuracy, %, with 95 % intervals, of images carried at few pixels and enlarged again, through the entry.

    Args:
        rows: list of dicts as of `study`, about content.
    """
    rows = _about(rows, "content")
    figure, ax = _figure(1, 1, width=6.5, height=4.2)
    _curves(ax, rows, "resolution")
    ax.set(xlabel="content carried at so many px, each side", ylabel="accuracy, %", ylim=(0, 100))
    ax.set_xticks(sorted({row["resolution"] for row in rows}))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return figure


def severity(rows):
    """Accuracy, %, with 95 % intervals, by severity: a panel for each corruption, a line for each model and way in.

    Args:
        rows: list of dicts as of `study`, about corruptions.
    """
    rows = _about(rows, "corruption")
    names = list(dict.fromkeys(file.corruption for file in FILES if file.severity))
    figure, axes = _figure(1, len(names), width=2.8 * len(names), height=3.8, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        _curves(ax, [row for row in rows if row["corruption"] == name], "severity")
        ax.set(xlabel="severity", title=name.replace("_", " "), ylim=(0, 100), xticks=range(1, 6))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def deliveries(rows):
    """Accuracy, %, of each delivered file (row) by each way in (column), a map for each model.

    Args:
        rows: list of dicts as of `study`, about delivery and the published situation.
    """
    rows = _about(rows, "delivery", "published")
    names = list(dict.fromkeys(row["model"] for row in rows))
    files = [file.file for file in FILES if file.file in {row["file"] for row in rows}]
    figure, axes = _figure(
        1, len(names), width=4.8 * len(names) + 2, height=0.4 * len(files) + 1.6, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=True):
        of = {(row["file"], row["way"]): 100 * row["accuracy"] for row in rows if row["model"] == name}
        ways = [way for way in WAYS if way in {way for _, way in of}]
        values = np.array([[of.get((file, way), np.nan) for way in ways] for file in files])
        drawn = ax.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if value < 65 else "black")
        ax.set_xticks(range(len(ways)), [way.replace("-", "\n") for way in ways])
        ax.set(title=name, xlabel="way in")
    axes[0, 0].set_yticks(range(len(files)), files)
    axes[0, 0].set_ylabel("delivered file")
    figure.colorbar(drawn, ax=axes, label="accuracy, %")
    return figure


def _about(rows, *studies):
    """The rows of one study, or of several."""
    chosen = [row for row in rows if row["study"] in studies]
    if not chosen:
        raise ValueError(f"got {len(rows)} rows, none of the study {' or '.join(studies)}; expected rows as of `study`")
    return chosen


def _curves(ax, rows, by):
    """A line for each model, dashed for other ways in than its entry."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    for model, way in dict.fromkeys((row["model"], row["way"]) for row in rows):
        drawn = sorted((row for row in rows if (row["model"], row["way"]) == (model, way)), key=itemgetter(by))
        x, n, right = (np.array([row[key] for row in drawn]) for key in (by, "n", "accuracy"))
        colour = _COLOURS[models.index(model) % len(_COLOURS)]
        style = {"color": colour, "marker": "." if way == WAYS[0] else "x", "ls": "-" if way == WAYS[0] else "--"}
        ax.plot(x, 100 * right, **style, label=f"{model}, {way}")
        _whiskers(ax, x, right * n, n, color=colour)


def _named(given, kind):
    """Pairs (name, thing) of a dict, or of the one thing given, whose name is then empty."""
    pairs = list(given.items()) if isinstance(given, dict) else [("", given)]
    if not pairs or not all(isinstance(thing, kind) and thing for _, thing in pairs):
        raise ValueError(f"got {given!r:.80}, expected a {kind.__name__} with content, or a dict of them by name")
    return pairs


def _figure(rows, columns, width, height, **options):
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def _show(ax, pixels, title, interpolation="nearest"):
    ax.imshow(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), interpolation=interpolation)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9, parse_math=False)  # a file's name may hold dollar signs


def _whiskers(ax, x, successes, totals, color="black", marker=""):
    """Draw the intervals of proportions, and return their lower ends, %."""
    pairs = np.rint(np.transpose([successes, totals])).astype(int)
    low, high = 100 * np.transpose([proportion_interval(*pair) for pair in pairs])
    middle = 100 * pairs[:, 0] / np.maximum(pairs[:, 1], 1)
    ax.errorbar(x, middle, (middle - low, high - middle), fmt=marker, ls="none", color=color, capsize=2, lw=1)
    return low


def _title(name, text):
    return f"{name}: {text}" if name else text
