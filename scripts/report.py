"""Run the comparison into build/report/, or run the notebooks in place.

    python scripts/report.py                          verify the weights, reproduce the answers, notebooks as HTML
    python scripts/report.py --notebooks [PATH ...]   run notebooks, and leave in them only what may be committed

The pictures of the data set are never committed: outputs of cells with the tag "dataset-picture".
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

import matplotlib.pyplot as plt
import mistune
import nbformat
import numpy as np
import readme
from mistune.toc import add_toc_hook
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, verify
from cifar_compare.system import only_python_on_stderr, write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, REPORT = sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "build" / "report"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},  # its version would change with every machine
}


def run(path, pictures=False):
    """Execute a notebook in its own folder; the notebook, with the pictures of the data set only if told to."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.execute(stderr=subprocess.DEVNULL)  # of the kernel itself, where TensorFlow greets; cells keep theirs
    clean(notebook, pictures)
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


def plots(results, folder):
    """Write the plots as SVG, with text as text; their widths in inches by name."""
    histories = {readme.title(name): cc.load_card(name)["history"] for name in results}
    figures = {"learning_curves": cc.plots.learning_curves(histories)}
    for name in ("per_class", "reliability", "confusion"):
        figures[name] = getattr(cc.plots, name)({readme.title(key): result for key, result in results.items()})
    for ax in figures["reliability"].axes:
        if ax.get_yscale() == "log":
            ax.yaxis.set_major_formatter("{x:,.0f}")  # in place of exponents, which are small
    figures["confusion"].set_size_inches(11.8, 6)  # as wide as the page, with its text of 10 points at 11 px
    with plt.rc_context({"svg.fonttype": "none"}):
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg")
    return {name: figure.get_figwidth() for name, figure in figures.items()}


def html(text):
    """Markdown as HTML, whose headings have the ids that GitHub gives them, so that links to them work on both."""
    markdown = mistune.create_markdown(escape=False, plugins=["table"])
    add_toc_hook(markdown, heading_id=lambda token, _: re.sub(r"[^\w\- ]", "", token["text"].lower()).replace(" ", "-"))
    return markdown(text)


def page(text, href):
    """A page of Markdown: where it goes, its heading and first paragraph, and all of it as HTML with links to HTML."""
    text = re.sub(r"\]\(([\w./-]+)\.(?:md|ipynb)((?:#[\w-]+)?)\)", r"](\1.html\2)", text)
    text = text.replace("](../notebooks/", "](../")
    heading = re.search("^# (.*)", text, re.MULTILINE)[1]
    teaser = re.split(r"\n\s*\n", text.split(heading, 1)[1].strip())[0]
    told = {
        "href": href,
        "short": Path(href).stem.replace("-", " "),
        "heading": heading,
        "teaser": html(teaser),
    }
    return told | {"body": html(text)}


def write_pages(folder, results, origin, notebooks):
    """Write index, docs and notebooks as HTML: `results` by name, `origin` says whence, `notebooks` by file name."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "docs").mkdir(parents=True)
    for path in (readme.FIGURE, readme.FEW):
        for stem in (path.stem, f"{path.stem}-narrow"):
            shutil.copy(path.with_stem(stem), folder / "docs")
    shutil.copytree(ROOT / "test_images", folder / "test_images", ignore=shutil.ignore_patterns("*.py", "*.md"))
    if demo := (ROOT / "build" / "demo").is_dir():
        shutil.copytree(ROOT / "build" / "demo", folder / "demo")
    docs = [page(path.read_text(), f"docs/{path.stem}.html") for path in sorted((ROOT / "docs").glob("*.md"))]
    told = [page(book.cells[0].source, f"{Path(name).stem}.html") for name, book in notebooks.items()]
    for entry, book in zip(told, notebooks.values(), strict=True):
        entry["body"] = HTMLExporter(template_name="basic").from_notebook_node(book)[0]
    facts = readme.facts() | {"results": results, "origin": origin, "docs": docs, "notebooks": told, "demo": demo}
    facts |= {"paired": cc.compare(*(results[name] for name in reversed(NAMES))), "widths": plots(results, folder)}
    for key, style in (("code_light", "default"), ("code_dark", "github-dark")):
        facts[key] = HtmlFormatter(style=style).get_style_defs(".highlight")
    templates = readme.environment(ROOT / "scripts")
    write(folder / "index.html", templates.get_template("report.html").render(facts, up=""))
    for entry in docs + told:
        up = "../" * entry["href"].count("/")
        write(folder / entry["href"], templates.get_template("page.html").render(facts | entry, up=up))


def report():
    """Write build/report/: what is shipped is verified, its answers are computed anew where there is data."""
    start = time.perf_counter()
    for name in NAMES:
        for part in (None, "test_predictions"):
            print(f"verified {verify(name, cc.load_card(name), part)}")
    try:
        data, origin = cc.load_cifar10(), "Measured just now on CIFAR-10's test images."
    except cc.DataError as error:
        data, origin = None, "CIFAR-10 could not be had: these answers were recorded when the models were released."
        print(f"{error}\n{origin}")
    results = {name: reproduced(name, data) if data else cc.load_predictions(name) for name in NAMES}
    notebooks = {}
    for path in NOTEBOOKS:
        print(f"running {path.name}")
        notebooks[path.name] = run(path, pictures=True)
    write_pages(REPORT, results, origin, notebooks)
    print("\n".join(f"{name}: {result}" for name, result in results.items()))
    print(f"{REPORT / 'index.html'} written; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", nargs="*", type=Path, metavar="PATH", help="run these in place (default: all)")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with only_python_on_stderr():
        if given.notebooks is None:
            report()
        for each in (given.notebooks or NOTEBOOKS) if given.notebooks is not None else ():
            nbformat.write(run(each.resolve()), each)
            print(each)
