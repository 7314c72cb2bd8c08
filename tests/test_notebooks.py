"""What every notebook must keep to, whatever it is about; `pytest --nbval-lax notebooks` runs them."""

import ast
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
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
    """What a notebook prints."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    return "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))


@pytest.fixture(scope="module")
def facts():
    """What the result files say, for sentences that rest on them."""
    names = ("custom_cnn", "mobilenet_v2")
    results = PATHS[0].parents[1] / "results"
    told = SimpleNamespace(
        cnn=cc.load_predictions(names[0]),
        mobile=cc.load_predictions(names[1]),
        cards={name: cc.load_card(name) for name in names},
        of={row["id"]: row for row in cc.study.read(results / "low_res_study.csv")},
        **{name: json.loads((results / f"{name}.json").read_text()) for name in ("bench", "people", "published_cnn")},
    )
    told.accuracy = {row: each["accuracy"] for row, each in told.of.items()}
    told.curves = {name: [row["val_accuracy"] for row in card["history"]] for name, card in told.cards.items()}
    told.published = [row["val_accuracy"] for row in told.published_cnn["history"]]
    told.ms = {row["model"]: row["latency_ms"] for row in told.bench["inference"] if row["on"] == "TensorFlow"}
    told.paired = cc.compare(told.mobile, told.cnn)
    told.shared = ~told.cnn.right & (told.cnn.predictions == told.mobile.predictions)
    return told


def recall_ahead(told):
    return told.mobile.recall - told.cnn.recall


def leads(told, condition):
    """Which model is ahead under a condition, through the preprocessing: 1 MobileNetV2, -1 the CNN, 0 undecided."""
    row = told.of[f"mobilenet_v2/{condition}/preprocessing"]
    return (row["minus_first_low"] > 0) - (row["minus_first_high"] < 0)


def faults(told, model):
    rows = [row for row in told.of.values() if (row["model"], row["route"]) == (model, "preprocessing")]
    return np.mean([row["accuracy"] for row in rows if row["study"] == "corruption"])


def robust(told, case):
    return told.accuracy[f"mobilenet_v2_robust/{case}"]


# Notebook, sentence or a part of it, and whether it is true.
CLAIMS = [
    (1, "about nineteen of twenty test images right", lambda told: round(20 * told.cnn.accuracy) == 19),
    (
        1,
        "A smaller, published CNN stops far below that",
        lambda told: (
            told.published_cnn["parameters"] < told.cards["custom_cnn"]["parameters"]
            and max(told.published) < told.curves["custom_cnn"][-1] - 0.04
        ),
    ),
    (1, "nearly flat at the end", lambda told: max(told.published[30:]) - told.published[30] < 0.02),
    (
        1,
        "Ours is no better for half of its epochs",
        lambda told: np.mean(told.curves["custom_cnn"][:24]) <= np.mean(told.published[:24]),
    ),
    (
        1,
        "the pair of cat and dog is the hardest by far, in both directions",
        lambda told: (
            set(np.argsort((told.cnn.confusion * (1 - np.eye(10, dtype=int))).ravel())[-2:]) == {35, 53}
            and sorted((told.cnn.confusion * (1 - np.eye(10, dtype=int))).ravel())[-3] <= 30
        ),
    ),
    (
        1,
        "Most mistakes stay among the animals or among the vehicles",
        lambda told: (
            np.mean(np.isin(told.cnn.labels, VEHICLES) == np.isin(told.cnn.predictions, VEHICLES)) > 0.5
            and np.mean(
                (np.isin(told.cnn.labels, VEHICLES) == np.isin(told.cnn.predictions, VEHICLES))[~told.cnn.right]
            )
            > 0.6
        ),
    ),
    (
        2,
        "overtakes the CNN of notebook 1 in a fraction of its epochs",
        lambda told: (
            told.curves["mobilenet_v2"][-1] > told.curves["custom_cnn"][-1]
            and told.paired.difference > 0
            and len(told.curves["mobilenet_v2"]) < len(told.curves["custom_cnn"]) / 2
        ),
    ),
    (
        2,
        "starts where the CNN arrives only after many epochs, and has finished before the CNN has got through a third",
        lambda told: (
            max(told.curves["custom_cnn"][:20]) < told.curves["mobilenet_v2"][1]
            and len(told.curves["mobilenet_v2"]) - 1 < len(told.curves["custom_cnn"]) / 3
        ),
    ),
    (2, "**Borrowed features alone go most of the way**", lambda told: told.curves["mobilenet_v2"][0] > 0.7),
    (
        2,
        "most of the mistakes that were left go away, and a single epoch already does a good part of that",
        lambda told: (
            1 - told.curves["mobilenet_v2"][-1] < 0.5 * (1 - told.curves["mobilenet_v2"][0])
            and 1 - told.curves["mobilenet_v2"][1] < 0.7 * (1 - told.curves["mobilenet_v2"][0])
        ),
    ),
    (
        3,
        "ahead by less than a point, which is more than luck, and its file is half as large",
        lambda told: (
            0 < told.paired.difference < 0.01
            and told.paired.interval[0] > 0
            and told.paired.p_value < 0.05
            and 1.8 < told.cards["custom_cnn"]["bytes"] / told.cards["mobilenet_v2"]["bytes"] < 2.2
        ),
    ),
    (
        3,
        "The CNN answers faster on the machine where both were timed, although it does three times the arithmetic",
        lambda told: (
            told.ms["custom_cnn"] < told.ms["mobilenet_v2"]
            and round(told.cards["custom_cnn"]["multiply_adds"] / told.cards["mobilenet_v2"]["multiply_adds"]) == 3
        ),
    ),
    (
        3,
        "Two models that err on different images know more together than each alone",
        lambda told: (
            cc.compare(
                cc.score((told.cnn.probabilities + told.mobile.probabilities) / 2, told.cnn.labels), told.mobile
            ).interval[0]
            > 0
        ),
    ),
    (
        3,
        "The same recipe comes out differently each time",
        lambda told: np.ptp([row["validation_accuracy"] for row in told.cards["custom_cnn"]["seeds"]]) > 0.002,
    ),
    (
        3,
        "Both find cats hardest. MobileNetV2 is ahead most clearly on birds",
        lambda told: told.cnn.recall.argmin() == told.mobile.recall.argmin() == 3 and recall_ahead(told).argmax() == 2,
    ),
    (
        3,
        "the more people agree, the more often the models are right",
        lambda told: all(
            sorted(each["accuracy_by_agreement"]) == each["accuracy_by_agreement"]
            for each in told.people["models"].values()
        ),
    ),
    (
        3,
        "Both models are about as good as a single person, and well behind fifty people together. Of their errors, "
        "most were also made by somebody",
        lambda told: all(
            abs(result.accuracy - told.people["single_person_accuracy"]) < 0.01
            and result.accuracy < told.people["majority_accuracy"] - 0.02
            and told.people["models"][name]["errors_that_people_made_too"] > 0.5
            for name, result in (("custom_cnn", told.cnn), ("mobilenet_v2", told.mobile))
        ),
    ),
    (
        3,
        "The corrections lift both models by a fraction of a point and change nothing about their order",
        lambda told: (
            0
            < told.people["corrected"]["models"]["custom_cnn"]["accuracy"] - told.cnn.accuracy
            < 0.005
            < told.people["corrected"]["models"]["mobilenet_v2"]["accuracy"]
            - told.people["corrected"]["models"]["custom_cnn"]["accuracy"]
        ),
    ),
    (
        3,
        "both keep their word to about one per cent on average",
        lambda told: max(told.cnn.ece, told.mobile.ece) < 0.015,
    ),
    (
        3,
        "Without the temperature both are *less* sure than they may be",
        lambda told: all(
            card["temperature"] < 1 and card["test"]["ece_before_temperature"] > 0.05 for card in told.cards.values()
        ),
    ),
    (
        4,
        "right more than nine times in ten through its own preprocessing, and about once in three without it",
        lambda told: (
            told.accuracy["mobilenet_v2/published/preprocessing"] > 0.9
            and 0.27 < told.accuracy["mobilenet_v2/published/bypass-nearest"] < 0.4
        ),
    ),
    (
        4,
        "Only one of the six bars is low",
        lambda told: all(
            told.accuracy[f"{name}/{case}"] > 0.85
            for name in told.cards
            for case in ("native/preprocessing", "published/preprocessing", "published/bypass-nearest")
            if (name, case) != ("mobilenet_v2", "published/bypass-nearest")
        ),
    ),
    (
        4,
        "Whatever the file, little is lost",
        lambda told: all(
            told.of[f"mobilenet_v2/{file}/preprocessing"]["minus_native"] > -0.05
            for file in ("1080-bicubic", "1080-nearest", "published", "published-truck")
        ),
    ),
    (
        4,
        "128 px: smooth files do no harm, blocks do.",
        lambda told: (
            told.of["mobilenet_v2/1080-bicubic/bypass-bilinear"]["minus_native"] > -0.01
            and told.of["mobilenet_v2/1080-nearest/bypass-bilinear"]["minus_native"] < -0.4
            and told.of["mobilenet_v2/native/bypass-nearest"]["minus_native"] < -0.4
        ),
    ),
    (
        4,
        "with blocks on top, little is left. Of the trucks, none",
        lambda told: (
            told.accuracy["mobilenet_v2/1080-nearest/bypass-nearest-224"] < 0.2
            and told.accuracy["mobilenet_v2/published-truck/bypass-nearest-224"] < 0.005
            and -0.3 < told.of["mobilenet_v2/1080-bicubic/bypass-bilinear-224"]["minus_native"] < -0.1
        ),
    ),
    (
        4,
        "not an accident of one picture, but what happens to most",
        lambda told: told.of["mobilenet_v2/published/bypass-nearest-224"]["confident_errors_low"] > 0.5,
    ),
    (
        4,
        "it is ahead at every size, and most clearly in the middle",
        lambda told: (
            all(leads(told, f"content-{size}") == 1 for size in (32, 24, 16, 12, 8))
            and max((8, 12, 16, 24), key=lambda n: told.of[f"mobilenet_v2/content-{n}/preprocessing"]["minus_first"])
            in (12, 16)
        ),
    ),
    (
        4,
        "MobileNetV2 holds longer against noise, blur and low contrast. JPEG hurts both alike",
        lambda told: (
            all(leads(told, f"{name}-3") == 1 for name in ("gaussian_noise", "gaussian_blur", "contrast"))
            and all(leads(told, f"jpeg-{severity}") == 0 for severity in range(1, 6))
        ),
    ),
    (
        4,
        "on pictures in small blocks (*pixelate*) the CNN takes the lead at the higher severities",
        lambda told: leads(told, "pixelate-4") == leads(told, "pixelate-5") == -1,
    ),
    (
        4,
        "At the highest severity of noise neither is of any use",
        lambda told: all(told.accuracy[f"{name}/gaussian_noise-5/preprocessing"] < 0.2 for name in told.cards),
    ),
    (
        4,
        "the robust MobileNetV2 hardly cares whether its preprocessing is there, and it is better on degraded pictures",
        lambda told: (
            abs(robust(told, "published/preprocessing") - robust(told, "published/bypass-nearest")) < 0.03
            and robust(told, "published/bypass-nearest") > 0.85
            and faults(told, "mobilenet_v2_robust") > faults(told, "mobilenet_v2") + 0.02
        ),
    ),
    (
        5,
        "Most of what both get wrong they get wrong in the same way",
        lambda told: told.shared.sum() > 0.5 * (~told.cnn.right & ~told.mobile.right).sum(),
    ),
    (
        7,
        "the released CNN is many times larger and saw nine times as many images twelve times as often",
        lambda told: (
            told.cards["custom_cnn"]["parameters"] > 20 * 95_210
            and 45_000 / 5_000 == 9
            and len(told.curves["custom_cnn"]) / 4 == 12
        ),
    ),
]
VEHICLES = [cc.CLASSES.index(name) for name in ("airplane", "automobile", "ship", "truck")]


@pytest.mark.parametrize(("number", "sentence", "holds"), CLAIMS, ids=[f"{n}-{text[:30]}" for n, text, _ in CLAIMS])
def test_what_the_text_says_is_true_of_the_results(number, sentence, holds, facts):
    (path,) = (path for path in PATHS if path.name.startswith(f"0{number}_"))
    texts = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    assert " ".join(sentence.split()) in " ".join(" ".join(texts).split()), (
        "the sentence was changed: so must the claim"
    )
    assert holds(facts), "the results say otherwise: change the sentence"


def test_a_picture_turned_round_is_mistaken_as_the_text_says():
    cat = np.asarray(Image.open(PATHS[0].parents[1] / "test_images" / "cat_test.jpg"))
    for name in ("custom_cnn", "mobilenet_v2"):
        upright, turned = cc.predict(name, [cat, cat[::-1, ::-1]])
        assert upright.label == "cat"
        assert turned.label == "dog"
        assert turned.probability > 0.85
        added = [cc.evidence_map(name, cat[::-1, ::-1], label) for label in ("dog", "cat")]
        row, column = np.unravel_index((added[0] - added[1]).argmax(), added[0].shape)
        assert row in (1, 2)
        assert column in (1, 2)
    assert not any("WRONG" in str(out) for out in outputs(PATHS[0].with_name("05_your_own_images.ipynb")))


def test_the_small_network_gets_more_than_half_right():
    text = str(outputs(PATHS[0].with_name("07_your_own_network.ipynb")))
    assert 50 < float(re.search(r"test images: accuracy ([\d.]+)", text)[1]) < 75
    assert int(re.search(r"([\d,]+) parameters", text)[1].replace(",", "")) < 480 * 640
    assert len(code_cells(PATHS[0].with_name("07_your_own_network.ipynb"))) <= 10


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
    assert sum(len(cell.source.splitlines()) for path in PATHS for cell in code_cells(path)) <= 0.75 * 715


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
