"""Run the comparison into build/report/, or run the notebooks in place.

    python scripts/report.py                          verify the weights, reproduce the answers, notebooks as HTML
    python scripts/report.py --notebooks [PATH ...]   run notebooks, and leave in them only what may be committed

The pictures of the data set are never committed: outputs of cells with the tag "dataset-picture".
"""

import argparse
import html
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import nbformat
import numpy as np
from markdown import interval, percent
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, verify
from cifar_compare.system import only_python_on_stderr

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, REPORT = sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "build" / "report"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},  # its version would change with every machine
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cifar-compare</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
pre{{background:#f4f4f4;padding:1em;white-space:pre-wrap}}img{{max-width:100%}}</style>
<h1>A CNN from scratch and a fine-tuned MobileNetV2 on CIFAR-10</h1>
<p>{origin}</p><pre>{table}</pre>
<h2>Notebooks</h2><ul>{links}</ul>
<h2>Plots</h2>{plots}</html>
"""


def run(path, to=None):
    """Execute a notebook in its own folder, and write it back, or a copy with all its pictures into the folder `to`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.execute(stderr=subprocess.DEVNULL)  # of the kernel itself, where TensorFlow greets; cells keep theirs
    clean(notebook, pictures=to is not None)
    nbformat.write(notebook, Path(to or path.parent) / path.name)
    return notebook


def clean(notebook, pictures=False):
    """Drop what differs from run to run, and unless told to keep them the pictures of the data set.

    Raises SystemExit where an output that may be committed names the home folder, the checkout or the machine.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
        if cell.cell_type == "code":
            keep = pictures or "dataset-picture" not in cell.metadata.get("tags", [])
            cell.outputs = [out for out in cell.outputs if keep and out.get("name") != "stderr"]
            texts = [out.get("text") or str({**out.get("data", {}), "image/png": ""}) for out in cell.outputs]
            for private in () if pictures else (str(Path.home()), str(ROOT), platform.node()):
                if private and re.search(rf"(?<!\w){re.escape(private)}(?!\w)", "\n".join(texts)):
                    raise SystemExit(f"{private!r} must not stand in the output of this cell:\n{cell.source}")


def reproduced(name, data):
    """One model's answers to the test images, computed anew; SystemExit where they are not the recorded ones."""
    print(f"{name}: answering {len(data.test):,} test images")
    fresh, recorded = cc.evaluate(cc.load_model(name), data.test, verbose=True), cc.load_predictions(name)
    apart = np.abs(fresh.probabilities - recorded.probabilities).max()
    changed = int((fresh.predictions != recorded.predictions).sum())
    if apart > 1e-3 or changed > 3:
        raise SystemExit(
            f"{name} does not reproduce models/{name}.test_predictions.npz: probabilities differ by up to {apart:.1e} "
            f"(allowed: 1e-3), {changed} answers differ (allowed: 3). Restore models/ with `git checkout`, or run "
            "`make results`."
        )
    print(f"{name}: reproduces the record; probabilities differ by at most {apart:.1e}, {changed} answers differ")
    return fresh


def comparison(results):
    """The two results in a table, and the paired difference below."""
    head = ["model", "accuracy, % [95 % interval]", "nll", "ECE, %", "weights", "multiply-adds, M"]
    rows = []
    for name, result in results.items():
        card, accuracy = cc.load_card(name), f"{percent(result.accuracy)} {interval(result.interval)}"
        cost = f"{card['parameters']:,}", f"{card['multiply_adds'] / 1e6:.0f}"
        rows.append([name, accuracy, f"{result.nll:.3f}", percent(result.ece, 1), *cost])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    paired = cc.compare(results["mobilenet_v2"], results["custom_cnn"])
    return "\n".join([*lines, "", f"mobilenet_v2 (a) against custom_cnn (b): {paired}"])


def plots(results):
    """Write the plots as SVG and return the HTML that shows them."""
    costs = {name: (cc.load_card(name)["multiply_adds"], result) for name, result in results.items()}
    figures = {
        "cost": cc.plots.accuracy_against_cost(costs),
        "per_class": cc.plots.per_class(results),
        "reliability": cc.plots.reliability(results),
        "learning_curves": cc.plots.learning_curves({name: cc.load_card(name)["history"] for name in results}),
        "confusion": cc.plots.confusion(results),
    }
    for name, figure in figures.items():
        figure.savefig(REPORT / f"{name}.svg")
    return "".join(f'<p><img src="{name}.svg" alt="{name.replace("_", " ")}"></p>' for name in figures)


def page_of(path):
    """Run a notebook, write it as HTML, and return the link to it."""
    print(f"running {path.name}")
    page, _ = HTMLExporter().from_notebook_node(run(path, REPORT))
    (REPORT / f"{path.stem}.html").write_text(page)
    return f'<li><a href="{path.stem}.html">{path.stem}</a></li>'


def report():
    """Write build/report/: what is shipped is verified, its answers are computed anew where there is data."""
    start = time.perf_counter()
    REPORT.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        for part in (None, "test_predictions"):
            print(f"verified {verify(name, cc.load_card(name), part)}")
    try:
        data, origin = cc.load_cifar10(), "Measured just now on CIFAR-10's test split."
    except cc.DataError as error:
        data, origin = None, "CIFAR-10 could not be had: these answers were recorded when the models were shipped."
        print(f"{error}\n{origin}")
    results = {name: reproduced(name, data) if data else cc.load_predictions(name) for name in NAMES}
    shown, links = comparison(results), "".join(map(page_of, NOTEBOOKS))
    page = PAGE.format(origin=origin, table=html.escape(shown), links=links, plots=plots(results))
    (REPORT / "index.html").write_text(page)
    print(f"\n{shown}\n\n{REPORT / 'index.html'} written; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", nargs="*", type=Path, metavar="PATH", help="run these in place (default: all)")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with only_python_on_stderr():
        if given.notebooks is None:
            report()
        else:
            for each in given.notebooks or NOTEBOOKS:
                run(each.resolve())
                print(each)
