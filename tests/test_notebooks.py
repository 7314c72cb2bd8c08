"""What every notebook must keep to, whatever it is about; `pytest --nbval-lax notebooks` runs them."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from picture_models import blocks
from PIL import Image

import cifar_compare as cc

PATHS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TAG = "dataset-picture"  # `scripts/report.py --notebooks` drops the outputs of cells with this tag

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def outputs(path):
    return [out for cell in code_cells(path) for out in cell.outputs]


@every_notebook
def test_is_valid_and_runs_on_any_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@every_notebook
def test_defines_nothing_and_installs_nothing(path):
    for cell in code_cells(path):
        assert not re.search(r"^\s*[%!]|sys\.path", cell.source, re.MULTILINE), cell.source
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(cell.source))), cell.source


@every_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 15, cell.source


@every_notebook
def test_text_leads_into_the_code(path):
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= 0.6 * kinds.count("code")
    assert "code code code code" not in " ".join(kinds)


@every_notebook
def test_checks_itself(path):
    sources = [cell.source for cell in code_cells(path)]
    assert any("NBVAL_CHECK_OUTPUT" in source for source in sources)
    assert not any("NBVAL_SKIP" in source for source in sources)
    for cell in code_cells(path):
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert cell.outputs, f"without an output there is nothing to check:\n{cell.source}"


@every_notebook
def test_has_the_outputs_of_one_whole_run(path):
    assert [cell.execution_count for cell in code_cells(path)] == [*range(1, len(code_cells(path)) + 1)]
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for out in outputs(path))
    assert "\r" not in "".join(out.get("text", "") for out in outputs(path)), "a progress bar was left in"


@every_notebook
def test_is_small_and_says_nothing_of_the_machine_it_ran_on(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 1e6
    assert not re.search(r"/(root|home|work|tmp|Users|mnt)/|[A-Z]:\\\\", text)


@every_notebook
def test_keeps_no_picture_of_the_data_set(path):
    for cell in code_cells(path):
        draws = "gallery(" in cell.source and re.search(r"\b(data|test|images)\b", cell.source)
        draws = draws and "cc.make_toy_data(" not in cell.source
        if draws or TAG in cell.metadata.get("tags", []):
            assert TAG in cell.metadata.get("tags", []), f"this cell needs the tag {TAG}:\n{cell.source}"
            assert not cell.outputs, "run scripts/report.py --notebooks, which drops such pictures"


def test_the_first_explains_every_field_of_the_recipe():
    text = PATHS[0].read_text(encoding="utf-8")
    assert [field for field in cc.Recipe.__dataclass_fields__ if f"`{field}`" not in text] == []


def test_pictures_of_ones_own_are_answered_and_bad_ones_named(tmp_path, monkeypatch):
    shown = sorted((PATHS[0].parents[1] / "test_images").glob("output-*.png"))
    before = [path.read_bytes() for path in shown]
    Image.fromarray(blocks(300, 200)).save(tmp_path / "a $x$\nb.png")
    Image.fromarray(blocks(32, 32)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.setenv("CIFAR_COMPARE_IMAGES", str(tmp_path))

    text = run(PATHS[0].with_name("05_your_own_images.ipynb"))

    assert "2 answered, 1 skipped" in text
    assert "text.png: is not a picture in a known format" in text
    assert "WRONG" not in text
    assert [path.read_bytes() for path in shown] == before


def run(path):
    """What a notebook prints, and the tables it draws."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") + out.get("data", {}).get("text/html", "") for out in shown)


@every_notebook
def test_opens_with_a_question_an_answer_and_one_plot(path):
    cells = nbformat.read(path, as_version=4).cells
    title, question, answer, *_ = cells[0].source.split("\n\n")
    assert title.startswith(f"# {int(path.stem[:2])} · ")
    assert re.fullmatch(r"\*\*.+\?\*\*", question) or question.endswith("?")
    assert len(re.findall(r"[.?!](?=\s|$)", answer)) <= 2
    opening = list(itertools.takewhile(lambda cell: cell.cell_type == "code", cells[1:]))
    pictures = [out for cell in opening for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(opening) <= 3
    assert len(pictures) == 1


@every_notebook
def test_every_plot_has_its_answer_in_words(path):
    cells = nbformat.read(path, as_version=4).cells
    for cell, following in itertools.pairwise(cells):
        if any("image/png" in out.get("data", {}) for out in cell.get("outputs", [])):
            assert following.cell_type == "markdown", cell.source
            assert not following.source.startswith("#"), cell.source
    assert cells[-1].cell_type == "markdown"


@every_notebook
def test_code_fits_on_a_page_and_builds_no_markdown(path):
    for cell in code_cells(path):
        assert max(map(len, cell.source.splitlines())) <= 110, cell.source
        assert "Markdown" not in cell.source


def test_the_notebooks_are_short():
    lengths = {path.stem: sum(len(cell.source.splitlines()) for cell in code_cells(path)) for path in PATHS}
    assert lengths.pop("06_how_much_data") <= 50  # which came later
    assert sum(lengths.values()) <= 0.75 * 715


def test_a_mode_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODE", "quick")
    with pytest.raises(ValueError, match="'quick', expected one of show, recompute, retrain, smoke"):
        cc.notebook()


@pytest.mark.parametrize("mode", ["show", "smoke"])
def test_made_pictures_stand_in_and_that_is_said(mode, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CIFAR_COMPARE_MODE", mode)
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
    setup = cc.notebook()
    said = capsys.readouterr().out
    assert not setup.real
    assert len(setup.data.test) == 100
    assert said.startswith(f"Mode {mode}: made pictures")
    assert ("CIFAR10_DIR: " in said) == (mode == "show")
    assert said.count("\n") == 1


@pytest.mark.parametrize("mode", ["recompute", "retrain"])
def test_modes_that_need_the_data_do_not_go_on_without(mode, monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR_COMPARE_MODE", mode)
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
    with pytest.raises(cc.DataError, match="CIFAR10_DIR"):
        cc.notebook()


def test_the_data_are_taken_where_they_are(cifar10, monkeypatch, capsys):
    monkeypatch.delenv("CIFAR_COMPARE_MODE", raising=False)
    setup = cc.notebook()
    assert setup.real
    assert setup.data.fingerprint == cifar10.fingerprint
    assert capsys.readouterr().out == "Mode show: CIFAR-10; released weights, recorded answers.\n"


def test_files_of_the_repository_are_found_from_its_folders_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR_COMPARE_MODE", "smoke")
    setup = cc.notebook()
    monkeypatch.chdir(PATHS[0].parent)
    assert setup.path("results/bench.json") == PATHS[0].parents[1] / "results" / "bench.json"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run this notebook in a clone"):
        setup.path("results/bench.json")


def test_a_table_shows_what_it_was_given_and_nothing_else(monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODE", "smoke")
    drawn = cc.notebook().table(["name", "n"], ["<b>&", 3], ["second", None]).data
    assert re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", drawn) == ["name", "n", "&lt;b&gt;&amp;", "3", "second", "None"]
    assert drawn.count("<tr>") == 3
