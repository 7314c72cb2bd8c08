"""Every figure holds the figures it was given, leaves pyplot empty, and shows once in a notebook."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import binomtest

matplotlib.use("Agg")

from cifar_compare import plots, score, study
from cifar_compare.data import CLASSES
from cifar_compare.evaluation import calibration_bins
from cifar_compare.study import CONDITIONS, ROUTES


def made_result(seed, skill, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = np.arange(500) % len(classes)
    logits = rng.normal(size=(500, len(classes)))
    logits[np.arange(500), labels] += skill
    return score(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels, classes)


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


def keras_history(epochs=3, **columns):
    """What `fit` returns, without a training."""
    history = SimpleNamespace(epoch=list(range(epochs)), params={}, model=None)
    shares = [0.5 + i / 10 for i in range(epochs)]
    history.history = {"accuracy": shares, "loss": shares[::-1], "val_loss": shares[::-1]} | columns
    return history


def test_learning_curves_of_a_keras_history(tmp_path):
    import keras

    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    network.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = np.zeros((8, 4), "float32"), np.arange(8) % 2
    history = network.fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
    loss, accuracy = drawn(plots.learning_curves({"own": history, "ours": made_history(2, 1)}), tmp_path).axes
    assert [line.get_label() for line in loss.lines[:2]] == ["own, training", "own, validation"]
    for ax, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for line, name in zip(ax.lines, (key, f"val_{key}"), strict=False):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2])
            np.testing.assert_allclose(line.get_ydata(), scale * np.array(history.history[name]))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (keras_history(accuracy=[0.1, np.nan, 0.2]), "accuracy is nan in epoch 2, expected a finite number"),
        (keras_history(val_loss=[0.1]), "3 epochs, but not as many values of val_loss: validate after every epoch"),
        (keras_history(accuracy=[None] * 3), r"but no accuracy: compile a Keras model with .*metrics=\['accuracy'\]"),
        (keras_history(epochs=0, accuracy=[]), "expected a list of dicts"),
        (keras_history().history, "expected a list of dicts, one an epoch, as of `train`, or a Keras History"),
        ([{"loss": 1.0, "accuracy": 0.5}], "expected a list of dicts"),
        ([{"epoch": 1, "loss": float("inf"), "accuracy": 0.5}], "loss is inf in epoch 1"),
        ([{"epoch": None, "loss": 1.0, "accuracy": 0.5}], "epoch is None"),
        ([{"epoch": 1, "loss": "1.0", "accuracy": 0.5}], "loss is '1.0' in epoch 1"),
        ([{"epoch": 1, "loss": 1.0}], "the history has epoch, loss, but no accuracy"),
        ({"a": []}, r"got \[\], expected a list of dicts"),
    ],
)
def test_learning_curves_refuse(history, message):
    with pytest.raises(ValueError, match=message):
        plots.learning_curves(history)


def test_learning_curves_of_the_head_alone(tmp_path):
    loss, accuracy = drawn(plots.learning_curves([{"epoch": 0, "loss": 1.0, "accuracy": 0.5}]), tmp_path).axes
    assert [len(ax.lines) for ax in (loss, accuracy)] == [0, 1]


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


def test_dollar_signs_are_shown_as_they_are(results, tmp_path):
    """Matplotlib would refuse the formula "$_$", or set "$a$" in italics without its dollars."""
    named = {"$_$": results["weak"], "$a$": results["strong"]}
    for draw in (plots.confusion, plots.reliability, plots.per_class):
        figure = drawn(draw(named), tmp_path)
        shown = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert shown
        assert not any(text.get_parse_math() for text in shown)


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


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "frog")])
def test_results_of_other_classes_are_drawn_with_their_names(classes, tmp_path):
    result, k = made_result(0, 1.5, classes), len(classes)
    (ax,) = drawn(plots.confusion(result), tmp_path).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == list(classes)
    assert np.reshape([int(text.get_text()) for text in ax.texts], (k, k)).sum() == 500
    (ax,) = drawn(plots.per_class({"a": result, "b": result}), tmp_path).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == list(classes)
    np.testing.assert_allclose(bars(ax), 100 * np.tile(result.recall, 2))
    upper, lower = drawn(plots.reliability(result), tmp_path).axes
    assert bars(lower).sum() == 500
    assert len(bars(upper)) <= 15 * (1 - 1 / k) + 1  # the top probability is at least 1 / k


def test_confusion_of_different_classes_has_a_panel_each(results, tmp_path):
    figure = drawn(plots.confusion({"ten": results["weak"], "two": made_result(0, 1, ("cat", "dog"))}), tmp_path)
    assert [len(ax.get_xticklabels()) for ax in figure.axes] == [10, 2]


def test_one_axis_for_different_classes_is_refused(results, answers):
    two = made_result(0, 1, ("cat", "dog"))
    answer = SimpleNamespace(probabilities=np.array([0.25, 0.75]), classes=("cat", "dog"))
    for draw, given in ((plots.per_class, results | {"two": two}), (plots.probabilities, answers | {"two": answer})):
        with pytest.raises(ValueError, match=r"different classes \(airplane, .* and cat, dog\): draw them one by one"):
            draw(given)


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
    figure = drawn(plots.gallery([np.full((8, 9, 3), 99.6), np.full((30, 4, 3), 255.0)]), tmp_path)
    first, second = (ax.images[0].get_array() for ax in figure.axes)
    assert first.shape == (8, 9, 3)
    assert first.dtype == np.uint8
    assert (first == 100).all()
    assert (second == 255).all()


FULL = np.full((2, 4, 4, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": FULL / 255}, "multiply by 255"),
        (
            {"images": [FULL[0] / 255, FULL[0, :2] / 255]},
            "image 0 has values from 0.784314 to 0.784314.*multiply by 255",
        ),
        ({"images": FULL // 200}, "has values from 0 to 1"),
        ({"images": [FULL[0], np.full((5, 4, 3), np.nan)]}, "image 1 holds NaN"),
        ({"images": FULL + 100.0}, "has values from 300 to 300"),
        ({"images": [FULL[0], FULL[0, ..., 0]]}, r"image 1 is uint8 \(4, 4\)"),
        ({"images": [FULL, FULL[0]]}, r"image 0 has shape \(2, 4, 4, 3\), expected \(height, width, 3\)"),
        ({"images": [FULL[0], [[1], [2, 3]]]}, "image 1 has rows that differ in length"),
        ({"images": FULL[0]}, r"have shape \(4, 4, 3\), expected \(n, height, width, 3\)"),
        ({"images": FULL[:0]}, r"have shape \(0, 4, 4, 3\)"),
        ({"images": []}, "expected .n, height, width, 3. with n ≥ 1"),
        ({"images": None}, "images are NoneType, expected an array"),
        ({"images": {"a": FULL[0]}}, "images are dict, expected an array"),
        ({"images": FULL, "titles": ["one"]}, "got 2 images and titles .*, expected a list of one title for each"),
        ({"images": FULL, "titles": []}, "got 2 images and titles"),
        ({"images": FULL, "titles": {0: "a", 1: "b"}}, "got 2 images and titles {0: 'a', 1: 'b'}, expected a list"),
        ({"images": FULL, "titles": {"a", "b"}}, "got 2 images and titles .*, expected a list"),
        ({"images": FULL, "titles": "ab"}, "got 2 images and titles 'ab'"),
        ({"images": FULL, "columns": 0}, "columns is 0, expected a whole number of at least 1"),
    ],
)
def test_gallery_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        plots.gallery(**given)


@pytest.fixture
def answers():
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 2).astype(np.float32)
    # All that is asked of an `Answer`; one of `predict` is drawn below.
    return {name: SimpleNamespace(probabilities=row) for name, row in zip(("weak", "strong"), rows, strict=True)}


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


def test_probabilities_of_an_answer_about_other_classes(tmp_path):
    import keras

    import cifar_compare as cc

    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    (answer,) = cc.predict(cc.with_preprocessing(network), FULL[0], classes=("cat", "dog", "frog"))
    (ax,) = drawn(plots.probabilities(answer), tmp_path).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog", "frog"]
    np.testing.assert_allclose([patch.get_width() for patch in ax.patches], 100 * answer.probabilities, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "pictures", "message"),
    [
        ([], None, r"got \[\], expected an Answer of `predict`"),
        (SimpleNamespace(probabilities=np.full(10, np.nan)), None, "probabilities of the answer holds NaN"),
        ({"a": SimpleNamespace(probabilities=np.ones(10))}, None, "probabilities of a has sum 10"),
        (SimpleNamespace(probabilities=np.full(10, 0.1)), [FULL[0]], "pictures are list, expected a dict"),
        (SimpleNamespace(probabilities=np.full(10, 0.1)), {"x": FULL[0] / 255}, "picture 'x' has .*multiply by 255"),
        (SimpleNamespace(probabilities=np.full(10, 0.1)), {"x": FULL}, r"picture 'x' has shape \(2, 4, 4, 3\)"),
    ],
)
def test_probabilities_refuse(given, pictures, message):
    with pytest.raises(ValueError, match=message):
        plots.probabilities(given, pictures)


def test_evidence(tmp_path):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, 12:52] = 90  # what the preprocessing cuts out
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


@pytest.mark.parametrize(
    ("pixels", "maps", "message"),
    [
        (FULL[0] / 255, np.zeros((3, 3)), "pixels has values .*multiply by 255"),
        (FULL, np.zeros((3, 3)), r"pixels has shape \(2, 4, 4, 3\)"),
        (FULL[0], {}, "got an empty dict"),
        (FULL[0], {"a": np.zeros(3)}, r"map 'a' is float64 \(3,\), expected finite floats \(h, w\)"),
        (FULL[0], np.full((3, 3), np.nan), r"map '' is float64 \(3, 3\), expected finite"),
        (FULL[0], np.zeros((0, 3)), r"float64 \(0, 3\)"),
        (FULL[0], None, "map '' is object"),
    ],
)
def test_evidence_refuses(pixels, maps, message):
    with pytest.raises(ValueError, match=message):
        plots.evidence(pixels, maps)


def test_accuracy_against_cost(results, tmp_path):
    rows = {"small": (2e7, results["weak"]), "large": (3e8, results["strong"])}
    (ax,) = drawn(plots.accuracy_against_cost(rows), tmp_path).axes
    assert [text.get_text() for text in ax.texts] == ["small", "large"]
    assert ax.get_xlim()[0] == 0
    for i, (cost, result) in enumerate(rows.values()):
        assert ax.texts[i].xy == (cost / 1e6, pytest.approx(100 * result.accuracy))
        assert whiskers(ax, i).ravel() == pytest.approx([100 * end for end in result.interval])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("multiply-adds an image, millions", "accuracy, %")


@pytest.mark.parametrize("cost", [0, -1.0, float("nan"), float("inf"), "3", None])
def test_accuracy_against_a_cost_that_is_none_is_refused(results, cost):
    with pytest.raises(ValueError, match=r"multiply-adds of a are .*, expected a number above 0"):
        plots.accuracy_against_cost({"a": (cost, results["weak"])})


@pytest.mark.parametrize("nonsense", [{}, [], {"a": 3}, {"a": (3,)}, {"a": (3, None)}])
def test_accuracy_against_cost_refuses(nonsense):
    with pytest.raises(ValueError, match=r"expected a (dict of \(multiply-adds, Result\)|Result)"):
        plots.accuracy_against_cost(nonsense)


DRAW = [plots.confusion, plots.reliability, plots.per_class, plots.learning_curves, plots.probabilities]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("nonsense", [{}, np.zeros((3, 10)), {"a": None}])
def test_something_else_is_refused(draw, nonsense):
    with pytest.raises(ValueError, match="expected a"):
        draw(nonsense)


def test_importing_the_figures_imports_neither_study_nor_prediction_nor_tensorflow():
    code = "import sys, cifar_compare.plots; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cifar_compare.evaluation" in loaded
    ours = {f"cifar_compare.{name}" for name in ("study", "prediction", "pictures")}
    assert not {"tensorflow", "keras", *ours} & set(loaded)


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
        for each in CONDITIONS[::-1]:
            for route in each.routes:
                accuracy += 0.003
                yield {"model": model, "route": route, **each.columns, "accuracy": accuracy}


def test_content_resolution_has_a_line_a_model(tmp_path):
    rows = list(made_rows())
    figure = drawn(study.plots.content_resolution(rows), tmp_path)
    (ax,) = figure.axes
    lines = [line for line in ax.lines if line.get_label() in ("one, preprocessing", "two, preprocessing")]
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
    of = next(row for row in rows if row["condition"] == "content-8")
    interval = binomtest(round(of["accuracy"] * of["n"]), of["n"]).proportion_ci(0.95, "exact")
    assert (low[0], high[0]) == pytest.approx((100 * interval.low, 100 * interval.high))


def test_severity_has_a_panel_a_corruption(tmp_path):
    rows = list(made_rows())
    figure = drawn(study.plots.severity(rows), tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["gaussian noise", "gaussian blur", "jpeg", "contrast", "pixelate"]
    for ax in figure.axes:
        name = ax.get_title().replace(" ", "_")
        lines = {line.get_label(): line for line in ax.lines if ", " in line.get_label()}
        assert set(lines) == {
            f"{model}, {route}" for model in ("one", "two") for route in ("preprocessing", "bypass-bilinear")
        }
        for label, line in lines.items():
            model, route = label.split(", ")
            told = [
                100 * row["accuracy"]
                for severity in range(1, 6)
                for row in rows
                if (row["model"], row["route"], row["condition"]) == (model, route, f"{name}-{severity}")
            ]
            assert list(line.get_ydata()) == pytest.approx(told)
            assert line.get_linestyle() == ("-" if route == "preprocessing" else "--")


def test_deliveries_write_each_accuracy_into_its_cell(tmp_path):
    rows = [row for row in made_rows() if row["model"] == "two" or "224" not in row["route"]]
    figure = drawn(study.plots.deliveries(rows), tmp_path)
    one, two = figure.axes[:2]
    conditions = [label.get_text() for label in one.get_yticklabels()]
    assert conditions[0] == "native"
    assert conditions[-2:] == ["published", "published-truck"]
    for ax, routes in ((one, ROUTES[:3]), (two, ROUTES)):
        assert [label.get_text().replace("\n", "-") for label in ax.get_xticklabels()] == list(routes)
        of = {(row["condition"], row["route"]): row for row in rows if row["model"] == ax.get_title()}
        assert len(ax.texts) == len(conditions) * len(routes)
        for text in ax.texts:
            column, row = text.get_position()
            assert float(text.get_text()) == pytest.approx(
                100 * of[conditions[row], routes[column]]["accuracy"], abs=0.051
            )


@pytest.mark.parametrize("draw", [study.plots.content_resolution, study.plots.severity, study.plots.deliveries])
def test_rows_of_another_study_are_refused(draw):
    rows = [row for row in made_rows() if row["study"] == "check"]
    rows += [row | {"study": row["study"][1:]} for row in made_rows()]  # near misses are no match
    with pytest.raises(ValueError, match=r"rows, none of the study (content|corruption|delivery or published);"):
        draw(rows)


def test_conditions_of_ones_own_and_cells_that_lack_are_drawn_as_they_are(tmp_path):
    own = study.Condition("mine", "delivery", 20, 16, 300, "lanczos")
    rows = [row for row in made_rows() if row["condition"] == "native"]
    rows.insert(0, {"model": "one", "route": "bypass-nearest", **own.columns, "accuracy": 0.25})
    one, two, _ = drawn(study.plots.deliveries(row for row in rows), tmp_path).axes
    assert [label.get_text() for label in one.get_yticklabels()] == ["native", "mine"]
    assert [text.get_text() for text in one.texts[-1:]] == ["25.0"]
    assert [len(ax.texts) for ax in (one, two)] == [6, 5]


def test_severity_of_one_corruption_has_one_panel(tmp_path):
    rows = [row for row in made_rows() if row["corruption"] == "jpeg"]
    figure = drawn(study.plots.severity(rows), tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["jpeg"]
    assert len(figure.legends[0].get_texts()) == 4
    with pytest.raises(ValueError, match="the rows are about no corruption"):
        study.plots.severity([row | {"corruption": "none"} for row in rows])


@pytest.mark.parametrize("draw", [study.plots.content_resolution, study.plots.severity, study.plots.deliveries])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [*rows, rows[0] | {"accuracy": float("nan")}],
            "accuracy of one, check, .* is nan, expected 0 to 1",
        ),
        (lambda rows: [rows[0] | {"accuracy": "0.5"}], "is '0.5', expected 0 to 1"),
        (lambda rows: [rows[0] | {"accuracy": 95.0}], "is 95.0, expected 0 to 1"),
        (lambda rows: [{"model": "one"}], "a row is {'model': 'one'}, expected rows as of `measure`"),
        (lambda rows: rows[0], "a row is 'model'"),
        (lambda rows: None, "a row is None"),
        (lambda rows: [], "got 0 rows, none of the study"),
    ],
)
def test_rows_that_are_none_are_refused(draw, change, message):
    with pytest.raises(ValueError, match=message):
        draw(change(list(made_rows())))
