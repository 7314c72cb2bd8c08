"""Statistics against figures computed by hand or published; temperature scaling on models made for it."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from cifar_compare import calibrate, compare, evaluate, evaluation, score, with_preprocessing
from cifar_compare.data import CLASSES, Split
from cifar_compare.evaluation import _paired_interval, calibration_bins, fit_temperature, proportion_interval


def answers(predictions, confidence=0.91):
    """Probabilities with `confidence` on each prediction and the rest shared evenly."""
    confidence = np.broadcast_to(confidence, len(predictions))
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(predictions)), predictions] = confidence
    return probabilities


def calibrated_logits(seed, n=20_000):
    """Logits whose softmax is, by construction, the probability with which the labels were drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.5, size=(n, 10))
    edges = np.cumsum(softmax(logits, axis=1), axis=1)[:, :-1]
    return logits, (rng.random((n, 1)) > edges).sum(axis=1)


def test_score_small_case_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    result = score(answers([0, 0, 1, 1, 1, 0]), labels)
    assert result.predictions.tolist() == [0, 0, 1, 1, 1, 0]
    assert result.right.tolist() == [True, True, False, True, True, False]
    assert result.accuracy == pytest.approx(4 / 6)
    expected = np.zeros((10, 10), int)
    expected[0, 0], expected[0, 1], expected[1, 1], expected[2, 0] = 2, 1, 2, 1
    np.testing.assert_array_equal(result.confusion, expected)
    np.testing.assert_allclose(result.precision, [2 / 3, 2 / 3] + [0] * 8)
    np.testing.assert_allclose(result.recall, [2 / 3, 1] + [0] * 8)
    assert result.nll == pytest.approx(-(4 * np.log(0.91) + 2 * np.log(0.01)) / 6)
    assert result.ece == pytest.approx(0.91 - 4 / 6)  # one bin


def test_score_rows_of_the_confusion_matrix_are_true_classes():
    confusion = score(answers([5, 5, 3]), np.array([3, 3, 3])).confusion
    assert confusion[3, 5] == 2
    assert confusion[5, 3] == 0
    assert confusion[3, 3] == 1


def test_score_types():
    result = score(answers([1, 2]).tolist(), [1, 3])
    assert result.probabilities.dtype == np.float32
    assert result.labels.dtype == result.predictions.dtype == np.int64
    assert {type(x) for x in (result.accuracy, result.nll, result.ece, *result.interval)} == {float}
    assert result.confusion.dtype == np.int64
    with pytest.raises(FrozenInstanceError):
        result.accuracy = 1.0


def test_score_reads_well():
    labels = np.zeros(10_000, int)
    text = repr(score(answers(np.where(np.arange(10_000) < 9400, 0, 1), 0.93), labels))
    assert text == "accuracy 94.00 % [93.52, 94.46], nll 0.360, ECE 1.0 %, n = 10000"


def test_score_certain_error_costs_a_finite_amount():
    result = score(np.eye(10)[[0, 1]], np.array([0, 2]))
    assert result.nll == pytest.approx(-np.log(np.finfo(np.float32).tiny) / 2, rel=1e-6)
    assert result.ece == pytest.approx(0.5)


def test_score_negative_log_likelihood_agrees_with_scikit_learn():
    from sklearn.metrics import log_loss

    logits, labels = calibrated_logits(0, 500)
    probabilities = softmax(logits, axis=1)
    assert score(probabilities, labels).nll == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


def test_score_calibration_error_by_hand_over_two_bins():
    # Three answers at 0.95, two of them right, and two at 0.5, both right.
    result = score(answers([0, 0, 1, 2, 2], [0.95, 0.95, 0.95, 0.5, 0.5]), np.array([0, 0, 0, 2, 2]))
    assert result.ece == pytest.approx((3 * (0.95 - 2 / 3) + 2 * 0.5) / 5, abs=1e-6)


def test_score_calibrated_answers_have_a_small_calibration_error():
    logits, labels = calibrated_logits(1)
    assert score(softmax(logits, axis=1), labels).ece < 0.01
    assert score(softmax(3 * logits, axis=1), labels).ece > 0.1


def test_score_probabilities_in_half_precision_pass():
    assert score(answers([0, 1]).astype(np.float16), [0, 1]).accuracy == 1


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 1)), [0, 0], r"\(2, 1\), expected \(n, classes\)"),
        (np.full(10, 0.1), [0], r"float64 \(10,\)"),
        (np.float32(0.1), [0], r"float32 \(\)"),
        (np.empty((0, 10)), np.empty(0, int), "n ≥ 1"),
        (answers([0, 1]), [0, 1, 2], r"labels have shape \(3,\), expected \(2,\), \(2, 1\) or one-hot \(2, 10\)"),
        (answers([0, 1]), np.full((2, 10), 0.1), "rows are not one-hot"),
        (answers([0, 1]), ["cat", "dog"], "classes.index"),
        (answers([0, 1]), [1, None], "classes.index"),
        (answers([0, 1]), [0.0, 1.0], "labels are float64"),
        (answers([0, 1]), [1, 10], "from 1 to 10, expected integers from 0 to 9"),
        (answers([0, 1]), [-1, 0], "from -1 to 0"),
        (np.vstack([answers([0]), np.full((1, 10), 0.2)]), [0, 1], "row 1.*sum 2.*softmax"),
        (np.array([[1.5, -0.5] + [0] * 8]), [0], r"smallest value -0\.5"),
        (np.full((1, 10), np.nan), [0], "row 0.*NaN.*diverged"),
    ],
)
def test_score_errors_name_what_was_given(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        score(probabilities, np.asarray(labels))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (9400, 10_000, 0.9352, 0.9446),
        (81, 263, 0.2527, 0.3676),  # this and the next three: Newcombe, Stat. Med. 17 (1998), table I
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (10, 10, 0.025 ** (1 / 10), 1),
        (0, 0, 0, 1),
    ],
)
def test_proportion_interval_has_its_published_values(successes, n, low, high):
    assert proportion_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_calibration_bins_edges_belong_to_the_lower_bin():
    counts, _, _ = calibration_bins(answers([0, 0, 0, 0], [0.25, 0.5, 0.5001, 1.0]), np.zeros(4), bins=4)
    assert counts.tolist() == [1, 1, 1, 1]


def test_calibration_bins_empty_bins_have_no_accuracy():
    counts, accuracies, confidences = calibration_bins(answers([1, 1, 2], 0.7), np.array([1, 2, 2]))
    assert counts[10] == counts.sum() == 3
    assert accuracies[10] == pytest.approx(2 / 3)
    assert confidences[10] == pytest.approx(0.7)
    assert np.isnan(np.delete(accuracies, 10)).all()


def test_compare_by_hand():
    labels = np.zeros(12, int)
    a = score(answers([0] * 6 + [1] * 6), labels)  # right on 0 … 5
    b = score(answers([0] + [1] * 9 + [0] * 2), labels)  # right on 0, 10, 11
    found = compare(a, b)
    assert (found.n, found.only_a, found.only_b) == (12, 5, 2)
    assert found.difference == pytest.approx(3 / 12)
    assert found.difference == pytest.approx(a.accuracy - b.accuracy)
    assert found.p_value == pytest.approx(2 * (1 + 7 + 21) / 2**7)  # both tails of the binomial with n = 7
    p, q, n = 6 / 14, 3 / 14, 14
    margin = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / n)
    assert found.interval == pytest.approx((p - q - margin, p - q + margin))
    assert repr(found).startswith("difference +25.00 points [")
    assert repr(found).endswith("right only in a 5, only in b 2, p = 0.45, n = 12")


def test_compare_never_says_that_a_p_value_is_zero():
    labels = np.zeros(2000, int)
    assert ", p < 1e-300, " in repr(compare(score(answers([0] * 2000), labels), score(answers([1] * 2000), labels)))


def test_compare_is_antisymmetric():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300)
    a, b = (score(answers(np.where(rng.random(300) < r, labels, 0)), labels) for r in (0.9, 0.8))
    there, back = compare(a, b), compare(b, a)
    assert there.difference == -back.difference != 0
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert (there.only_a, there.only_b) == (back.only_b, back.only_a)
    assert there.p_value == back.p_value


def test_compare_a_model_with_itself():
    result = score(answers([1] * 1000), np.ones(1000, int))
    found = compare(result, result)
    assert (found.difference, found.p_value, found.only_a, found.only_b) == (0, 1, 0, 0)
    assert found.interval == pytest.approx((-0.00277, 0.00277), abs=1e-5)


def test_compare_gives_the_published_interval():
    # Airway hyper-responsiveness before and after a transplantation, 1 and 7 discordant of 21 pairs:
    # -0.508 to -0.013 by Bonett and Price's method, in Fagerland, Lydersen and Laake (2014).
    assert _paired_interval(1, 7, 21) == pytest.approx((-0.508, -0.013), abs=1e-3)


@pytest.mark.parametrize("shares", [(0.03, 0.022), (0.0006, 0.0002), (0.2, 0.1)])
def test_compare_covers_the_truth_in_95_of_100_samples(shares):
    n, rng = 10_000, np.random.default_rng(0)
    samples = rng.multinomial(n, [*shares, 1 - sum(shares)], size=4000)
    ends = np.array([_paired_interval(a, b, n) for a, b, _ in samples])
    covered = ((ends[:, 0] <= shares[0] - shares[1]) & (shares[0] - shares[1] <= ends[:, 1])).mean()
    assert 0.94 < covered < 0.98  # with few discordant images, it leans to the safe side


def test_compare_other_images_are_refused():
    result = score(answers([1, 2, 3]), np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="labels differ: score both models on the same images"):
        compare(result, score(answers([1, 2, 3]), np.array([2, 1, 3])))
    with pytest.raises(ValueError, match="a has 3 images, b has 2"):
        compare(result, score(answers([1, 2]), np.array([1, 2])))


@pytest.mark.parametrize("sharpening", [0.5, 1.0, 2.5, 6.0])
def test_fit_temperature_recovers_what_was_done_to_a_calibrated_model(sharpening):
    logits, labels = calibrated_logits(2)
    assert fit_temperature(softmax(sharpening * logits, axis=1), labels) == pytest.approx(sharpening, rel=0.03)


def test_fit_temperature_lowers_the_loss_and_lies_at_its_minimum():
    logits, labels = calibrated_logits(3, 2000)
    probabilities = softmax(3 * logits, axis=1).astype(np.float32)
    best = fit_temperature(probabilities, labels)
    tried = (best, 1, best / 1.05, best * 1.05)
    losses = [score(softmax(3 * logits / t, axis=1), labels).nll for t in tried]
    assert losses[0] == min(losses)


def test_fit_temperature_bears_probabilities_that_underflowed():
    logits, labels = calibrated_logits(4)
    probabilities = softmax(np.float32(15 * logits), axis=1)
    assert (probabilities == 0).any()
    assert fit_temperature(probabilities, labels) == pytest.approx(15, rel=0.1)


def test_fit_temperature_stays_within_its_limits():
    labels = np.arange(100) % 10
    assert 1 / 20 <= fit_temperature(answers(labels), labels) < 1 / 5
    assert fit_temperature(answers((labels + 1) % 10), labels) == pytest.approx(20, rel=1e-3)


def small_model(activation, use_bias=True):
    """A model whose weights are large enough to be sure of itself."""
    import keras

    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    options = {
        "use_bias": use_bias,
        "kernel_initializer": keras.initializers.RandomNormal(stddev=30, seed=1),
        "bias_initializer": keras.initializers.RandomNormal(stddev=3, seed=2),
        "name": "logits",
    }
    if activation == "inside":
        x = keras.layers.Dense(10, activation="softmax", **options)(x)
    else:
        x = keras.layers.Softmax(name="probabilities")(keras.layers.Dense(10, **options)(x))
    return with_preprocessing(keras.Model(pixels, x), 32)


@pytest.fixture(scope="module")
def split():
    """603 images, so that the last batch is a short one."""
    rng = np.random.default_rng(0)
    means = rng.integers(40, 216, (603, 1, 1, 3))
    images = np.clip(means + rng.normal(scale=20, size=(603, 32, 32, 3)), 0, 255).astype(np.uint8)
    return Split(images, rng.integers(0, 10, 603))


def three_times_too_sure(model, images):
    """A split whose labels are drawn from what the model says at a temperature of 3."""
    logs = np.log(np.maximum(model(images, training=False), 1e-38, dtype=np.float64))
    edges = np.cumsum(softmax(logs / 3, axis=1), axis=1)[:, :-1]
    return Split(images, (np.random.default_rng(1).random((len(images), 1)) > edges).sum(axis=1))


def test_evaluate_agrees_with_a_single_call_on_everything(split):
    model = small_model("inside")
    result = evaluate(model, split)
    whole = np.asarray(model(split.images, training=False))
    np.testing.assert_allclose(result.probabilities, whole, atol=1e-5)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.labels, split.labels)
    assert result.accuracy == (whole.argmax(axis=1) == split.labels).mean()


def test_evaluate_hands_over_batches_and_never_copies(split):
    class Recorder:
        sizes = ()

        def predict_on_batch(self, images):
            assert np.shares_memory(images, split.images)
            assert images.dtype == np.uint8
            self.sizes += (len(images),)
            return np.full((len(images), 10), 0.1, np.float32)

    model = Recorder()
    assert evaluate(model, split, batch_size=200).labels.shape == (603,)
    assert model.sizes == (200, 200, 200, 3)


def test_evaluate_progress_is_shown_on_request_only(split, capsys):
    model = small_model("inside")
    evaluate(model, split)
    assert capsys.readouterr() == ("", "")
    evaluate(model, split, verbose=True)
    assert "3/3" in capsys.readouterr().err


def test_evaluate_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="n ≥ 1"):
        evaluate(None, Split(np.empty((0, 32, 32, 3), np.uint8), np.empty(0, np.int64)))


@pytest.mark.parametrize(("activation", "use_bias"), [("inside", True), ("behind", True), ("behind", False)])
def test_calibrate_folds_the_temperature_into_the_last_layer(split, activation, use_bias):
    model = small_model(activation, use_bias)
    split = three_times_too_sure(model, split.images)
    before = evaluate(model, split)
    temperature = calibrate(model, split)
    assert temperature == fit_temperature(before.probabilities, before.labels)
    assert temperature == pytest.approx(3, rel=0.15)
    after = evaluate(model, split)
    logs = np.log(np.maximum(before.probabilities, 1e-38, dtype=np.float64))
    expected = np.exp(log_softmax(logs / temperature, axis=1))
    assert np.abs(expected - before.probabilities).max() > 0.1  # far more than the tolerance below
    np.testing.assert_allclose(after.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(after.predictions, before.predictions)
    assert after.nll < before.nll
    assert calibrate(model, split) == pytest.approx(1, abs=1e-3)


def test_calibrate_survives_saving(split, tmp_path):
    import keras

    model = small_model("behind")
    calibrate(model, split)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(evaluate(again, split).probabilities, evaluate(model, split).probabilities)


def test_calibrate_a_model_without_such_a_layer_is_refused(split):
    import keras

    with pytest.raises(ValueError, match="with_preprocessing"):
        calibrate(keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()]), split)


@pytest.mark.parametrize("labels", [lambda y: y[:, None], lambda y: np.eye(10)[y], lambda y: np.eye(10, dtype=bool)[y]])
def test_labels_in_a_column_or_one_hot_are_the_same_labels(split, labels):
    model = small_model("behind")
    expected, found = evaluate(model, split), evaluate(model, (split.images, labels(split.labels)))
    np.testing.assert_array_equal(found.labels, split.labels)
    assert (found.accuracy, found.nll) == (expected.accuracy, expected.nll)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: Split((s.images / 255).astype("float32"), s.labels), "from 0.* to 1, .*multiply by 255"),
        (lambda s: Split((s.images / 255).astype("uint8"), s.labels), "keep the pixels as they were stored"),
        (lambda s: Split(s.images / 127.5 - 1, s.labels), "expected 0 to 255"),
        (lambda s: Split(s.images * np.nan, s.labels), "NaN"),
        (lambda s: Split(s.images.transpose(0, 3, 1, 2), s.labels), r"expected \(n, height, width, 3\)"),
        (lambda s: Split(s.images[..., :1], s.labels), r"expected \(n, height, width, 3\)"),
        (lambda s: Split(s.images, s.labels[:-1]), r"expected \(603,\)"),
        (lambda s: Split(s.images, s.labels - 1), "from -1 to 8"),
        (lambda s: Split(s.images, s.labels + 1), "from 1 to 10"),
        (lambda s: Split(s.images, np.array(CLASSES)[s.labels]), "classes.index"),
        (lambda s: Split(s.images, s.labels % 2, classes=("no", "yes")), "10 probabilities.* 2 classes"),
        (lambda s: zip(s.images, s.labels, strict=True), "is a zip, expected a Split, or a pair"),
        (lambda s: None, "is a NoneType"),
    ],
)
@pytest.mark.parametrize("call", [evaluate, calibrate])
def test_what_is_no_split_of_pixels_is_refused_before_any_work(split, change, message, call, monkeypatch):
    model = small_model("behind")
    monkeypatch.setattr(type(model), "predict_on_batch", lambda *_: pytest.fail("worked before it checked"))
    with pytest.raises(ValueError, match=message):
        call(model, change(split))


def test_a_pipeline_of_tensorflow_is_refused_before_any_work(split):
    import tensorflow as tf

    pipeline = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(10)
    with pytest.raises(ValueError, match="expected a Split, or a pair"):
        evaluate(small_model("behind"), pipeline)


def test_a_model_that_diverged_is_named_as_such(split):
    model = small_model("behind")
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    for call in (evaluate, calibrate):
        with pytest.raises(ValueError, match=r"row 0 of the probabilities holds NaN or infinity: .*diverged"):
            call(model, split)


def test_classes_belong_to_the_data():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    result = score(probabilities, [0, 1, 1], classes=["cat", "dog"])
    assert result.classes == ("cat", "dog")
    assert result.confusion.tolist() == [[1, 0], [1, 1]]
    assert result.accuracy == pytest.approx(2 / 3)
    assert score(answers([0, 1]), [0, 1]).classes == CLASSES
    with pytest.raises(ValueError, match="2"):
        score(probabilities, [0, 1, 1], classes=["cat", "dog", "bird"])


@pytest.mark.parametrize("name", ["channels_first", "mixed_float16", "float16"])
def test_no_global_setting_of_keras_matters(split, name, keras_setting):
    model = small_model("behind")
    expected = evaluate(model, split)
    with keras_setting(name):
        found = evaluate(model, split)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_compare_takes_two_results_of_the_same_classes():
    one = score(np.eye(2)[[0, 1]], [0, 1], ("cat", "dog"))
    with pytest.raises(ValueError, match=r"classes of a are \('cat', 'dog'\), those of b \('dog', 'cat'\)"):
        compare(one, score(np.eye(2)[[0, 1]], [0, 1], ("dog", "cat")))
    with pytest.raises(ValueError, match=r"a is a float, b a float, expected two results of cc"):
        compare(0.9, 0.8)


def test_the_name_of_a_model_is_to_be_loaded_first():
    with pytest.raises(ValueError, match=r"expected a keras.Model: load it first"):
        evaluation._check_fit("custom_cnn", np.zeros((1, 32, 32, 3)), CLASSES)
