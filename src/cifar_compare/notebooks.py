"""Set a notebook of this project up with one call, and draw small tables in it."""

import html
import os
from dataclasses import dataclass

from .data import Data, DataError, load_cifar10, make_toy_data
from .system import upwards

MODES = {
    "show": "released weights, recorded answers",
    "recompute": "released weights, answers computed now",
    "retrain": "networks trained here, which takes hours",
    "smoke": "a few training steps, so that no figure means anything",
}


@dataclass(frozen=True)
class Notebook:
    """What `notebook` has set up."""

    mode: str  # one of MODES
    data: Data  # CIFAR-10, or made pictures in its place
    real: bool  # whether it is CIFAR-10

    def path(self, name):
        """The path of a file or folder of the repository; FileNotFoundError outside a clone."""
        if found := [path for path in upwards(name) if path.exists()]:
            return found[0]
        raise FileNotFoundError(f"{name} is not here or in a folder above: run this notebook in a clone")

    def table(self, head, *rows):
        """HTML for a cell's last expression: one row for the heading and one for each of `rows`, lists of anything."""
        from IPython.display import HTML

        cells = [[f"<td style='text-align: left'>{html.escape(str(cell))}</td>" for cell in row] for row in rows]
        lines = "".join(f"<tr>{''.join(row)}</tr>\n" for row in cells)
        head = "".join(f"<th style='text-align: left'>{html.escape(str(cell))}</th>" for cell in head)
        return HTML(f"<table>\n<tr>{head}</tr>\n{lines}</table>")


def notebook():
    """Set a notebook up as the environment variable CIFAR_COMPARE_MODE says (one of MODES), and print one line on it.

    "show", the default, does with made pictures where CIFAR-10 is not on this machine. "recompute" and "retrain"
    download it then, and raise DataError where they cannot. Raises ValueError for another mode.
    """
    mode = os.environ.get("CIFAR_COMPARE_MODE") or "show"
    if mode not in MODES:
        raise ValueError(f"CIFAR_COMPARE_MODE is {mode!r:.80}, expected one of {', '.join(MODES)}")
    data, pictures = None, "made pictures"
    try:
        if mode != "smoke":
            data, pictures = load_cifar10(download=mode != "show"), "CIFAR-10"
    except DataError as error:
        if mode != "show":
            raise
        pictures += f" ({str(error).splitlines()[0].rstrip(':')})"
    print(f"Mode {mode}: {pictures}; {MODES[mode]}.")
    return Notebook(mode, data or make_toy_data(train=200, validation=100, test=100), data is not None)
