"""Run the notebooks and leave in them only what may be committed.

    python scripts/run_notebooks.py [--to FOLDER] [NOTEBOOK ...]

Runs in place by default, and then drops the pictures of the data set, which are never committed: the outputs
of cells with the tag "dataset-picture". With `--to`, writes executed copies that keep them to a folder.
"""

import argparse
import os
import platform
import re
import subprocess
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},  # its version would change with every machine
}


def clean(notebook, pictures=False):
    """Drop what differs from run to run, and unless told to keep them the pictures of the data set.

    Raises SystemExit where an output that may be committed names the home folder, the checkout or the machine.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":
            keep = pictures or "dataset-picture" not in cell.metadata.get("tags", [])
            cell.outputs = [out for out in cell.outputs if keep and out.get("name") != "stderr"]
            texts = [out.get("text") or str({**out.get("data", {}), "image/png": ""}) for out in cell.outputs]
            for private in () if pictures else (str(Path.home()), str(NOTEBOOKS.parent), platform.node()):
                if private and re.search(rf"(?<!\w){re.escape(private)}(?!\w)", "\n".join(texts)):
                    raise SystemExit(f"{private!r} must not stand in the output of this cell:\n{cell.source}")


def run(path, to=None):
    """Execute one notebook in its own folder, and write it back, or a copy into the folder `to`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.execute(stderr=subprocess.DEVNULL)  # of the kernel itself, where TensorFlow greets; cells keep theirs
    clean(notebook, pictures=to is not None)
    nbformat.write(notebook, Path(to or path.parent) / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the notebooks, in place or as copies.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    parser.add_argument("--to", type=Path, help="folder for executed copies (default: in place)")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if given.to:
        given.to.mkdir(parents=True, exist_ok=True)
    for each in given.notebooks:
        run(each.resolve(), given.to)
        print(each)
