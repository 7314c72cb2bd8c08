"""Every figure holds the figures it was given, leaves pyplot empty, and shows once in a notebook."""

import dataclasses
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import binomtest

matplotlib.use("Agg")

from cifar_compare import plots, score
from cifar_compare.data import CLASSES
from cifar_compare.degrade import SEVERITIES
from cifar_compare.evaluation import calibration_bins
from cifar_compare.low_res import FILES, WAYS
from cifar_compare.pictures import Answer


def made_result(seed, skill):
    rng = np.random.default_rng(seed)
    labels = np.arange(500) % 10
    logits = rng.normal(size=(500, 10))
    logits[np.arange(500), labels] += skill
    return score(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)


def made_history(epochs, speed):
    return [
        {
            "epoch": epoch,
            "loss": 2 / (1 + speed * epoch),
            "accuracy": 1 - 0.9 / (1 + speed * epoch),
            "val_loss": 2.2 / (1 + speed * epoch),
            "val_accuracy": 0.97 - 0.87 / (1 + speed * epoch),
            "seconds": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture(scope="module")
def results():
    return {"weak": made_result(0, 1.5), "strong": made_result(1, 4.0)}


@pytest.fixture(autouse=True)
def nothing_left_open():
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def drawn(figure, tmp_path):
    """The figure, once it was rendered without a warning and not all in one colour."""
    assert isinstance(figure, Figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.png")
    assert plt.imread(tmp_path / "figure.png").std() > 0
    return figure


def bars(ax):
    return np.array([patch.get_height() for patch in ax.patches])


def whiskers(ax, container=0):
    """Lower and upper ends of the error bars of an axes, (2, n)."""
    errorbar = [c for c in ax.containers if hasattr(c, "has_yerr")][container]
    return np.array([segment[:, 1] for segment in errorbar[2][0].get_segments()]).T


def test_learning_curves_of_one_history(tmp_path):
    history = made_history(5, 1.0)
    figure = drawn(plots.learning_curves(history), tmp_path)
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    for ax, keys, scale in ((loss, ("loss", "val_loss"), 1), (accuracy, ("accuracy", "val_accuracy"), 100)):
        for line, key in zip(ax.lines, keys, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
            np.testing.assert_allclose(line.get_ydata(), [scale * row[key] for row in history])
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss, nats", "accuracy, %"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}


def test_learning_curves_of_several_histories(tmp_path):
    figure = drawn(plots.learning_curves({"a": made_history(3, 1), "b": made_history(6, 2)}), tmp_path)
    lines = figure.axes[1].lines
    assert [line.get_label() for line in lines] == [
        "a, training",
        "a, validation",
        "b, training",
        "b, validation",
    ]
    assert [len(line.get_xdata()) for line in lines] == [3, 3, 6, 6]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert [line.get_linestyle() for line in lines] == ["--", "-", "--", "-"]


def test_learning_curves_leave_out_the_loss_of_the_head_alone(tmp_path):
    history = [made_history(1, 1.0)[0] | {"epoch": 0}, *made_history(3, 1.0)]
    losses, accuracies = drawn(plots.learning_curves(history), tmp_path).axes
    assert [list(line.get_xdata()) for line in losses.lines] == [[1, 2, 3]] * 2
    assert [list(line.get_xdata()) for line in accuracies.lines] == [[0, 1, 2, 3]] * 2


def test_learning_curves_without_validation(tmp_path):
    history = [{"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": None}]
    figure = drawn(plots.learning_curves(history), tmp_path)
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]


def test_more_curves_than_colours_are_all_drawn(tmp_path):
    figure = drawn(plots.learning_curves({str(i): made_history(2, 1) for i in range(8)}), tmp_path)
    assert len(figure.axes[0].lines) == 16


def test_confusion(results, tmp_path):
    figure = drawn(plots.confusion(results["weak"]), tmp_path)
    (ax,) = figure.axes
    np.testing.assert_array_equal(ax.images[0].get_array(), results["weak"].confusion)
    counts = np.reshape([int(text.get_text()) for text in ax.texts], (10, 10))
    np.testing.assert_array_equal(counts, results["weak"].confusion)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CLASSES)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert ax.get_title() == f"{100 * results['weak'].accuracy:.2f} % right"


def test_confusion_of_several_results(results, tmp_path):
    figure = drawn(plots.confusion(results), tmp_path)
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["weak", "strong"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), results["strong"].confusion)


def test_reliability(results, tmp_path):
    result = results["weak"]
    figure = drawn(plots.reliability(result), tmp_path)
    upper, lower = figure.axes
    counts, accuracies, confidences = calibration_bins(result.probabilities, result.labels)
    filled = counts > 0
    assert 1 < filled.sum() < 15
    np.testing.assert_allclose(bars(upper), 100 * accuracies[filled])
    np.testing.assert_array_equal(bars(lower), counts)
    assert bars(lower).sum() == 500
    low, high = whiskers(upper)
    assert (low <= bars(upper) + 1e-9).all()
    assert (high >= bars(upper) - 1e-9).all()
    assert upper.get_title() == f"ECE {100 * result.ece:.2f} %"
    centres = np.array([patch.get_x() + patch.get_width() / 2 for patch in upper.patches])
    assert np.abs(centres - 100 * confidences[filled]).max() < 100 / 15 / 2


def test_reliability_of_several_results(results, tmp_path):
    figure = drawn(plots.reliability(results), tmp_path)
    assert len(figure.axes) == 4
    assert [ax.get_title().split(":")[0] for ax in figure.axes[:2]] == ["weak", "strong"]
    assert bars(figure.axes[3]).sum() == 500


def test_per_class(results, tmp_path):
    figure = drawn(plots.per_class(results), tmp_path)
    (ax,) = figure.axes
    expected = 100 * np.concatenate([results["weak"].recall, results["strong"].recall])
    np.testing.assert_allclose(bars(ax), expected)
    low, high = whiskers(ax, 1)
    right, total = results["strong"].confusion[3, 3], results["strong"].confusion[3].sum()
    interval = binomtest(int(right), int(total)).proportion_ci()
    assert (low[3], high[3]) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CLASSES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["weak", "strong"]


def test_per_class_says_where_its_axis_starts(tmp_path):
    labels = np.repeat(np.arange(10), 1000)
    (ax,) = drawn(plots.per_class(score(np.eye(10)[labels], labels)), tmp_path).axes
    assert ax.get_ylim() == (90, 100)
    assert ax.get_ylabel() == "recall, % (axis starts at 90)"


def test_per_class_draws_a_class_without_images(tmp_path):
    (ax,) = drawn(plots.per_class(score(np.eye(10)[[0, 0]], np.array([0, 0]))), tmp_path).axes
    assert bars(ax).tolist() == [100] + [0] * 9
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "recall, %"


def test_gallery(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    figure = drawn(plots.gallery(images, [f"picture\n{i}" for i in range(11)], columns=4), tmp_path)
    assert len(figure.axes) == 12
    for i, ax in enumerate(figure.axes[:11]):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[i])
        assert ax.images[0].get_interpolation() == "nearest"
        assert ax.get_title() == f"picture\n{i}"
    assert not figure.axes[11].images


def test_gallery_of_floats_and_sizes(tmp_path):
    figure = drawn(plots.gallery([np.full((8, 9, 3), 99.6), np.full((30, 4, 3), 300.0)]), tmp_path)
    first, second = (ax.images[0].get_array() for ax in figure.axes)
    assert first.shape == (8, 9, 3)
    assert first.dtype == np.uint8
    assert (first == 100).all()
    assert (second == 255).all()


@pytest.mark.parametrize(("count", "titles"), [(0, None), (2, ["one"]), (2, [])])
def test_gallery_refuses(count, titles):
    with pytest.raises(ValueError, match=f"got {count} images"):
        plots.gallery(np.zeros((count, 4, 4, 3), np.uint8), titles)


@pytest.fixture
def answers():
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 2).astype(np.float32)
    return {name: Answer("a", "cat", 0.5, (), row, None) for name, row in zip(("weak", "strong"), rows, strict=True)}


def test_probabilities(answers, tmp_path):
    (ax,) = drawn(plots.probabilities(answers["weak"]), tmp_path).axes
    widths = [patch.get_width() for patch in ax.patches]
    np.testing.assert_allclose(widths, 100 * answers["weak"].probabilities, rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    assert ax.yaxis_inverted()  # the first class is on top
    assert (ax.get_xlim(), ax.get_xlabel()) == ((0, 100), "probability, %")


def test_probabilities_of_several_beside_pictures(answers, tmp_path):
    pictures = {"$a_$^.png": np.zeros((30, 50, 3), np.uint8), "small": np.full((4, 4, 3), 99.6)}
    figure = drawn(plots.probabilities(answers, pictures), tmp_path)
    *left, ax = figure.axes
    assert [place.get_title() for place in left] == list(pictures)
    assert [place.images[0].get_array().max() for place in left] == [0, 100]
    expected = np.concatenate([answers["weak"].probabilities, answers["strong"].probabilities])
    np.testing.assert_allclose([patch.get_width() for patch in ax.patches], 100 * expected, rtol=1e-6)
    # Every pair of bars lies around its class, and in the same order as in the legend.
    centres = np.reshape([patch.get_y() + patch.get_height() / 2 for patch in ax.patches], (2, 10))
    np.testing.assert_allclose(centres.mean(axis=0), np.arange(10), atol=1e-9)
    assert (centres[0] < centres[1]).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["weak", "strong"]


def test_evidence(tmp_path):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, 12:52] = 90  # what the entry cuts out
    maps = {"one: cat": np.array([[0.5, -2.0], [1.0, 0.0]]), "two: dog": np.arange(9.0).reshape(3, 3) / 10}
    *axes, bar = drawn(plots.evidence(pixels, maps), tmp_path).axes
    for ax, (title, each) in zip(axes, maps.items(), strict=True):
        shown, picture = ax.images
        assert ax.get_title() == title
        assert (picture.get_array() == 90).all()
        assert picture.get_extent() == shown.get_extent()
        np.testing.assert_array_equal(shown.get_array(), each)
        assert shown.get_clim() == (-2, 2)  # white is 0 and colours compare
        assert [float(text.get_text()) for text in ax.texts] == pytest.approx(each.ravel().tolist())
    assert bar.get_ylabel() == "added to the logit, nats"


def test_evidence_of_one_map_that_is_all_zero(tmp_path):
    ax, _ = drawn(plots.evidence(np.full((9, 5, 3), 200.0), np.zeros((3, 3))), tmp_path).axes
    assert ax.images[1].get_array().shape == (5, 5)


def test_accuracy_against_cost(results, tmp_path):
    rows = {"small": (2e7, results["weak"]), "large": (3e8, results["strong"])}
    (ax,) = drawn(plots.accuracy_against_cost(rows), tmp_path).axes
    assert [text.get_text() for text in ax.texts] == ["small", "large"]
    assert ax.get_xlim()[0] == 0
    for i, (cost, result) in enumerate(rows.values()):
        assert ax.texts[i].xy == (cost / 1e6, pytest.approx(100 * result.accuracy))
        assert whiskers(ax, i).ravel() == pytest.approx([100 * end for end in result.interval])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("multiply-adds an image, millions", "accuracy, %")


DRAW = [plots.confusion, plots.reliability, plots.per_class, plots.learning_curves, plots.probabilities]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("nonsense", [{}, np.zeros((3, 10)), {"a": None}])
def test_something_else_is_refused(draw, nonsense):
    with pytest.raises(ValueError, match="expected a"):
        draw(nonsense)


def test_a_notebook_shows_a_figure_exactly_once():
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import numpy as np\nfrom IPython.display import display\nfrom cifar_compare import plots",
        "picture = np.zeros((1, 4, 4, 3), np.uint8)",
        "plots.gallery(picture)",
        "display(plots.gallery(picture))\n1 + 1",
        "figure = plots.gallery(picture)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [sum("image/png" in out.get("data", {}) for out in cell.outputs) for cell in notebook.cells]
    assert pictures == [0, 0, 1, 1, 0]


def made_rows():
    """Rows of a study of two models, whose accuracies all differ."""
    accuracy = 0.05
    for model in ("one", "two"):
        for file in FILES[::-1]:
            for way in file.ways:
                accuracy += 0.003
                yield {"model": model, "way": way, **dataclasses.asdict(file), "accuracy": accuracy}


def test_content_resolution_has_a_line_a_model(tmp_path):
    rows = list(made_rows())
    figure = drawn(plots.content_resolution(rows), tmp_path)
    (ax,) = figure.axes
    lines = [line for line in ax.lines if line.get_label() in ("one, entry", "two, entry")]
    assert len(lines) == 2
    for line, model in zip(lines, ("one", "two"), strict=True):
        of = {
            row["resolution"]: 100 * row["accuracy"]
            for row in rows
            if (row["model"], row["study"]) == (model, "content")
        }
        assert list(line.get_xdata()) == [8, 12, 16, 24, 32]
        assert list(line.get_ydata()) == pytest.approx([of[size] for size in (8, 12, 16, 24, 32)])
    low, high = whiskers(ax)
    of = next(row for row in rows if row["file"] == "content-8")
    interval = binomtest(round(of["accuracy"] * of["n"]), of["n"]).proportion_ci(0.95, "exact")
    assert (low[0], high[0]) == pytest.approx((100 * interval.low, 100 * interval.high))


def test_severity_has_a_panel_a_corruption(tmp_path):
    rows = list(made_rows())
    figure = drawn(plots.severity(rows), tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["gaussian noise", "gaussian blur", "jpeg", "contrast", "pixelate"]
    for ax, name in zip(figure.axes, SEVERITIES, strict=True):
        lines = {line.get_label(): line for line in ax.lines if ", " in line.get_label()}
        assert set(lines) == {f"{model}, {way}" for model in ("one", "two") for way in ("entry", "working-bilinear")}
        for label, line in lines.items():
            model, way = label.split(", ")
            told = [
                100 * row["accuracy"]
                for severity in range(1, 6)
                for row in rows
                if (row["model"], row["way"], row["file"]) == (model, way, f"{name}-{severity}")
            ]
            assert list(line.get_ydata()) == pytest.approx(told)
            assert line.get_linestyle() == ("-" if way == "entry" else "--")


def test_deliveries_write_each_accuracy_into_its_cell(tmp_path):
    rows = [row for row in made_rows() if row["model"] == "two" or "224" not in row["way"]]
    figure = drawn(plots.deliveries(rows), tmp_path)
    one, two = figure.axes[:2]
    files = [label.get_text() for label in one.get_yticklabels()]
    assert files[0] == "native"
    assert files[-2:] == ["published", "published-truck"]
    for ax, ways in ((one, WAYS[:3]), (two, WAYS)):
        assert [label.get_text().replace("\n", "-") for label in ax.get_xticklabels()] == list(ways)
        of = {(row["file"], row["way"]): row for row in rows if row["model"] == ax.get_title()}
        assert len(ax.texts) == len(files) * len(ways)
        for text in ax.texts:
            column, row = text.get_position()
            assert float(text.get_text()) == pytest.approx(100 * of[files[row], ways[column]]["accuracy"], abs=0.051)


@pytest.mark.parametrize("draw", [plots.content_resolution, plots.severity, plots.deliveries])
def test_rows_of_another_study_are_refused(draw):
    rows = [row for row in made_rows() if row["study"] == "check"]
    rows += [row | {"study": row["study"][1:]} for row in made_rows()]  # near misses are no match
    with pytest.raises(ValueError, match=r"rows, none of the study (content|corruption|delivery or published);"):
        draw(rows)
