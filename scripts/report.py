"""Run the comparison and write build/report/: weights verified, answers reproduced, notebooks as HTML.

python scripts/report.py
"""

import html
import time
from pathlib import Path

import nbformat
import numpy as np
from nbconvert import HTMLExporter
from run_notebooks import NOTEBOOKS, run

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, verify
from cifar_compare.cli import only_python_on_stderr
from cifar_compare.data import DataError

REPORT = Path(__file__).resolve().parents[1] / "build" / "report"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cifar-compare</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
pre{{background:#f4f4f4;padding:1em;white-space:pre-wrap}}img{{max-width:100%}}</style>
<h1>A CNN from scratch and a fine-tuned MobileNetV2 on CIFAR-10</h1>
<p>{origin}</p><pre>{table}</pre>
<h2>Notebooks</h2><ul>{links}</ul>
<h2>Plots</h2>{plots}</html>
"""


def answers(data):
    """Both models' test results: computed and held against the record where there is data, else the recorded ones."""
    recorded = {name: cc.load_predictions(name) for name in NAMES}
    if data is None:
        return recorded
    fresh = {}
    for name in NAMES:
        print(f"{name}: answering {len(data.test):,} test images")
        fresh[name] = cc.evaluate(cc.load_model(name), data.test, verbose=True)
        apart = np.abs(fresh[name].probabilities - recorded[name].probabilities).max()
        changed = int((fresh[name].predictions != recorded[name].predictions).sum())
        if apart > 1e-3 or changed > 3:
            raise SystemExit(
                f"{name} does not reproduce models/{name}.test_predictions.npz: probabilities differ by up to "
                f"{apart:.1e} (allowed: 1e-3), {changed} answers differ (allowed: 3). Restore models/ with "
                "`git checkout`, or run `make results`."
            )
        print(f"{name}: reproduces the record; probabilities differ by at most {apart:.1e}, {changed} answers differ")
    return fresh


def table(results):
    """The comparison as aligned text."""
    lines = [
        f"{'model':<14}{'accuracy, %':>12}  {'95 % interval':<16}{'nll':>7}{'ECE, %':>8}{'weights':>12}{'MACs, M':>9}"
    ]
    for name, result in results.items():
        card, (low, high) = cc.load_card(name), result.interval
        lines.append(
            f"{name:<14}{100 * result.accuracy:>12.2f}  {f'[{100 * low:.2f}, {100 * high:.2f}]':<16}{result.nll:>7.3f}"
            f"{100 * result.ece:>8.1f}{card['parameters']:>12,}{card['multiply_adds'] / 1e6:>9.0f}"
        )
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
        **{f"confusion_{name}": cc.plots.confusion({name: result}) for name, result in results.items()},
    }
    for name, figure in figures.items():
        figure.savefig(REPORT / f"{name}.svg")
    return "".join(f'<p><img src="{name}.svg" alt="{name.replace("_", " ")}"></p>' for name in figures)


def notebook_pages():
    """Run every notebook, write it as HTML, and return the list of links."""
    links = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"running {path.name}")
        run(path, REPORT)
        executed = REPORT / path.name
        page, _ = HTMLExporter().from_notebook_node(nbformat.read(executed, as_version=4))
        executed.with_suffix(".html").write_text(page)
        links.append(f'<li><a href="{path.stem}.html">{path.stem}</a></li>')
    return "".join(links)


def main():
    start = time.perf_counter()
    REPORT.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        card = cc.load_card(name)
        for part in (None, "test_predictions"):
            print(f"verified {verify(name, card, part)}")
    try:
        data = cc.load_cifar10()
        origin = "Measured just now on CIFAR-10's test split."
    except DataError as error:
        data = None
        origin = "CIFAR-10 could not be had, so these are the answers recorded when the models were shipped."
        print(f"{error}\n{origin}")
    results = answers(data)
    shown = table(results)
    page = PAGE.format(origin=origin, table=html.escape(shown), links=notebook_pages(), plots=plots(results))
    (REPORT / "index.html").write_text(page)
    print(f"\n{shown}\n\n{REPORT / 'index.html'} written; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    with only_python_on_stderr():
        main()
