"""Draw rows of the low-resolution study as matplotlib figures, as `cifar_compare.plots` draws results.

Takes rows as of `measure` or `read`. Rows of other parts of the study are left out; where nothing is left, or an
accuracy is none, ValueError is raised.
"""

from collections.abc import Iterable
from numbers import Real
from operator import itemgetter

import numpy as np

from ..plots import COLOURS, literal_text, new_figure, whiskers
from ..system import printable
from .conditions import CONDITIONS, ROUTES
from .degrade import SEVERITIES


@literal_text
def content_resolution(rows):
    """Accuracy, %, with 95 % intervals, of images carried at few pixels and enlarged again, through the preprocessing.

    Args:
        rows: list of dicts as of `measure`, about content.
    """
    rows = _about(rows, "content")
    figure, ax = new_figure(1, 1, width=6.5, height=4.2)
    _curves(ax, rows, "resolution")
    ax.set(xlabel="content carried at so many px, each side", ylabel="accuracy, %", ylim=(0, 100))
    ax.set_xticks(sorted({row["resolution"] for row in rows}))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return figure


@literal_text
def severity(rows):
    """Accuracy, %, with 95 % intervals, by severity: a panel for each corruption, a line for each model and route.

    Args:
        rows: list of dicts as of `measure`, about corruptions.
    """
    rows = _about(rows, "corruption")
    names = [name for name in SEVERITIES if name in {row["corruption"] for row in rows}]
    if not names:
        raise ValueError(f"the rows are about no corruption, expected one of {', '.join(SEVERITIES)}")
    columns, lines = min(len(names), 5), -(-len(names) // 5)
    size = {"width": 2.8 * columns, "height": 3 * lines + 0.8}
    figure, axes = new_figure(lines, columns, **size, sharey=True, squeeze=False)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for ax, name in zip(axes.flat, names, strict=False):
        _curves(ax, [row for row in rows if row["corruption"] == name], "severity")
        ax.set(xlabel="severity", title=name.replace("_", " "), ylim=(0, 100), xticks=range(1, 6))
        ax.grid(alpha=0.3)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@literal_text
def deliveries(rows):
    """Accuracy, %, under each condition of delivery (row) by each route (column), a map for each model.

    Args:
        rows: list of dicts as of `measure`, about delivery and the published situation.
    """
    rows = _about(rows, "delivery", "published")
    names = list(dict.fromkeys(row["model"] for row in rows))
    measured = dict.fromkeys(row["condition"] for row in rows)
    ours = [each.name for each in CONDITIONS if each.name in measured]
    conditions = [*ours, *(name for name in measured if name not in ours)]
    size = {"width": 4.8 * len(names) + 2, "height": 0.4 * len(conditions) + 1.6}
    figure, (axes,) = new_figure(1, len(names), **size, sharey=True, squeeze=False)
    for ax, name in zip(axes, names, strict=True):
        of = {(row["condition"], row["route"]): 100 * row["accuracy"] for row in rows if row["model"] == name}
        routes = [route for route in ROUTES if route in {route for _, route in of}]
        values = np.array([[of.get((condition, route), np.nan) for route in routes] for condition in conditions])
        drawn = ax.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            ax.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if value < 65 else "black")
        ax.set_xticks(range(len(routes)), [route.replace("-", "\n") for route in routes])
        ax.set(title=name, xlabel="route")
    axes[0].set_yticks(range(len(conditions)), conditions)
    axes[0].set_ylabel("condition")
    figure.colorbar(drawn, ax=axes, label="accuracy, %")
    return figure


def _about(rows, *studies):
    """The rows of some parts of the study, checked."""
    rows = list(rows) if isinstance(rows, Iterable) else [rows]
    needed = ("study", "model", "route", "condition", "corruption", "severity", "resolution", "n", "accuracy")
    for row in rows:
        if not isinstance(row, dict) or not set(needed) <= set(row):
            raise ValueError(f"a row is {printable(repr(row), 80)}, expected rows as of `measure` or `read`")
        if not isinstance(row["accuracy"], Real) or not 0 <= row["accuracy"] <= 1:  # NaN is not
            given = f"accuracy of {row['model']}, {row['condition']}, {row['route']} is {row['accuracy']!r}"
            raise ValueError(f"{given}, expected 0 to 1")
    chosen = [row for row in rows if row["study"] in studies]
    if not chosen:
        given = f"got {len(rows)} rows, none of the study {' or '.join(studies)}"
        raise ValueError(f"{given}; expected rows as of `measure` or `read`")
    return chosen


def _curves(ax, rows, by):
    """A line for each model and route, dashed where it bypasses the preprocessing."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    for model, route in dict.fromkeys((row["model"], row["route"]) for row in rows):
        drawn = sorted((row for row in rows if (row["model"], row["route"]) == (model, route)), key=itemgetter(by))
        x, n, right = (np.array([row[key] for row in drawn]) for key in (by, "n", "accuracy"))
        style = {"marker": ".", "ls": "-"} if route == ROUTES[0] else {"marker": "x", "ls": "--"}
        colour = COLOURS[models.index(model) % len(COLOURS)]
        ax.plot(x, 100 * right, **style, color=colour, label=f"{model}, {route}")
        whiskers(ax, x, right * n, n, color=colour)
