"""Whatever a public function is given, a right result comes out, or a documented error of one readable line."""

import dataclasses
import io
import os

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from PIL import Image

import cifar_compare as cc
from cifar_compare.data import class_names, digests
from cifar_compare.evaluation import fit_temperature

DOCUMENTED = (ValueError, cc.PictureError, cc.ArtefactError, cc.DataError, cc.TrainingError)
CASES = int(os.environ.get("FUZZ_CASES", "40"))
ANSWERED = {}  # by function, for each call whether it was answered


def cases(share=1.0):
    """Hypothesis' settings: the same few cases each time, many new ones where FUZZ_CASES says so."""
    return hypothesis.settings(
        max_examples=max(5, int(share * CASES)),
        derandomize="FUZZ_CASES" not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def outcome(call, *given, **options):
    """What a call returns; None where it raised a documented error, whose text must be short and of one line."""
    counted = ANSWERED.setdefault(call.__name__, [])
    try:
        made = call(*given, **options)
        counted.append(True)
        return made
    except DOCUMENTED as error:
        counted.append(False)
        text = str(error)
    assert 0 < len(text) <= 700, text
    assert "\n" not in text, text
    return None


@pytest.fixture(scope="module")
def model():
    """A network of 1,600 weights that was never trained: its answers are those of plain Keras all the same."""
    return cc.build_custom_cnn(widths=(8, 8, 8))


counts = st.integers(0, 5)
scales = st.sampled_from(["pixels", "shares", "signed", "nan", "inf", "too large", "zeros", "ones"])
dtypes = st.sampled_from(["uint8", "int64", "float32", "float64", "float16", "bool", "complex64", "str", "object"])
shapes = st.sampled_from(["nhwc", "nchw", "nhw", "hwc", "grey", "empty", "small", "wide"])


def pixels(n, scale, dtype, shape, seed):
    """An array as people may have it, and whether it is what the functions ask for."""
    form = {"nhwc": (n, 32, 32, 3), "nchw": (n, 3, 32, 32), "nhw": (n, 32, 32), "hwc": (32, 32, 3)}
    form |= {"grey": (n, 32, 32, 1), "empty": (n, 0, 32, 3), "small": (n, 7, 7, 3), "wide": (n, 9, 40, 3)}
    values = np.random.default_rng(seed).integers(0, 256, form[shape]).astype("float64")
    values = {
        "shares": values / 255,
        "signed": values / 127.5 - 1,
        "nan": np.where(values == values.max(initial=0), np.nan, values),
        "inf": np.where(values == values.max(initial=0), np.inf, values),
        "too large": values + 300,
        "zeros": 0 * values,
        "ones": 0 * values + 1,
    }.get(scale, values)
    with np.errstate(all="ignore"):
        array = values.astype(dtype)
    fine = shape in ("nhwc", "small", "wide") and n > 0 and dtype in ("uint8", "int64", "float32", "float64", "float16")
    if fine:
        low, high = array.min(), array.max()
        fine = bool(np.isfinite(array).all()) and low >= 0 and high <= 255
        kind = array.dtype.kind
        fine = fine and not (kind == "f" and 0 < high <= 1) and not (n > 1 and high == 1)
    return array, fine


right_arrays = st.builds(
    *(pixels, st.integers(1, 5), st.just("pixels"), st.sampled_from(["uint8", "float32"]), st.just("nhwc")),
    st.integers(0, 9),
)
arrays = st.one_of(right_arrays, st.builds(pixels, counts, scales, dtypes, shapes, st.integers(0, 9)))


def truths(kind, n, seed):
    """Labels as people may have them, and as int (n,), or None where they are no labels of ten classes."""
    labels = np.random.default_rng(seed).integers(0, 10, n)
    nothing = n == 0
    made = {
        "ints": (labels, labels),
        "small ints": (labels.astype("uint8"), labels),
        "list": (labels.tolist(), labels),
        "column": (labels[:, None], labels),
        "one-hot": (np.eye(10)[labels], labels),
        "bools": (np.eye(10, dtype=bool)[labels], labels),
        "from -1": (np.where(labels == labels.max(initial=0), -1, labels), None),
        "up to 10": (np.where(labels == labels.max(initial=0), 10, labels), None),
        "floats": (labels + 0.0, None),
        "shares": (np.full((n, 10), 0.1), None),
        "names": (np.array(cc.CLASSES)[labels], None),
        "none": (None, None),
        "too few": (labels[1:], None),
        "nested": ([[1], [1, 2]], None),
        "scalar": (3, None),
    }[kind]
    return made if not nothing else (made[0], None)


right_kinds = st.sampled_from(["ints", "small ints", "list", "column", "one-hot", "bools"])
odd_kinds = ["from -1", "up to 10", "floats", "shares", "names", "none", "too few", "nested", "scalar"]
label_kinds = st.one_of(right_kinds, st.sampled_from(odd_kinds))


@cases()
@hypothesis.given(arrays, label_kinds, st.integers(0, 9), st.sampled_from([1, 3, 250, 0, -1, 2.5]))
def test_fuzz_a_split_is_measured_rightly_or_refused(model, given_array, kind, seed, batch_size):
    images, fine = given_array
    labels, truth = truths(kind, len(images), seed)
    result = outcome(cc.evaluate, model, cc.Split(images, labels), batch_size)
    fine = fine and truth is not None and batch_size in (1, 3, 250)
    assert (result is not None) == fine
    if fine:
        answers = model.predict_on_batch(images.astype("float32"))
        assert result.accuracy == np.mean(answers.argmax(axis=1) == truth)
        assert np.isfinite([result.nll, result.ece, *result.interval]).all()


@cases(0.5)
@hypothesis.given(st.lists(st.tuples(arrays, label_kinds), max_size=3))
def test_fuzz_calls_in_any_order_leave_nothing_behind(model, calls):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    before, weights = cc.evaluate(model, (images, np.arange(6))), model.get_weights()
    for (given_images, _), kind in calls:
        split = cc.Split(given_images, truths(kind, len(given_images), 0)[0])
        outcome(cc.evaluate, model, split)
        outcome(cc.predict, model, given_images)
        outcome(cc.plots.gallery, given_images)
        if outcome(cc.calibrate, model, split) is not None:
            assert all(np.isfinite(weight).all() for weight in model.get_weights())
            model.set_weights(weights)
    after = cc.evaluate(model, (images, np.arange(6)))
    np.testing.assert_array_equal(after.probabilities, before.probabilities)


def answers(kind, n, k, seed):
    random = np.random.default_rng(seed)
    values = random.dirichlet(np.ones(max(k, 1)), n)[:, :k]
    odd = {"logits": 5 * values, "negative": values - 0.5, "nan": values * np.nan, "text": values.astype(str)}
    odd |= {"vector": values.ravel(), "half": values.astype("float16"), "list": values.tolist(), "none": None}
    return odd.get(kind, values), kind in ("right", "half", "list") and n > 0 and k > 1


answer_kinds = ["right", "half", "list", "logits", "negative", "nan", "text", "vector", "none"]
right_answers = st.builds(
    answers, st.sampled_from(["right", "half"]), st.integers(1, 5), st.just(10), st.integers(0, 9)
)
odd_answers = st.builds(answers, st.sampled_from(answer_kinds), counts, st.integers(0, 11), st.integers(0, 9))


@cases(2)
@hypothesis.given(
    st.one_of(right_answers, odd_answers),
    st.one_of(st.sampled_from(["right", "column"]), st.sampled_from(["k", "-1", "text", "too many"])),
    st.one_of(st.sampled_from([None, tuple("abcdefghij")]), st.sampled_from([("a", "b"), "ab", ("a", "a"), 3])),
)
def test_fuzz_answers_are_scored_rightly_or_refused(given_answers, kind, classes):
    probabilities, fine = given_answers
    shape = np.shape(probabilities)
    n, k = shape if len(shape) == 2 else (3, 10)
    truth = np.arange(n) % max(k, 1)
    labels = {"column": truth[:, None], "k": truth + k, "-1": truth - 1, "text": truth.astype(str)}.get(kind, truth)
    labels = np.append(labels, labels[:1]) if kind == "too many" else labels
    named = classes is None or (isinstance(classes, tuple) and len(set(classes)) == len(classes) == k)
    fine = fine and named and (kind in ("right", "column") or (kind == "text" and n == 0))
    result = outcome(cc.score, probabilities, labels, classes)
    assert (result is not None) == bool(fine)
    if fine:
        guesses = np.asarray(probabilities, "float32").argmax(axis=1)
        assert result.accuracy == np.mean(guesses == truth)
        assert result.classes == class_names(k, classes)
        assert result.confusion.sum() == n
        assert np.isfinite([result.nll, result.ece]).all()
        assert 0.049 <= fit_temperature(probabilities, labels) <= 20.1
        assert cc.compare(result, result).difference == 0
        for draw in (cc.plots.confusion, cc.plots.per_class, cc.plots.reliability):
            draw(result)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
things = st.one_of(
    arrays.map(lambda pair: pair[0]),
    st.none(),
    st.integers(),
    st.floats(),
    st.binary(max_size=40),
    st.text(max_size=40).filter(lambda text: "\0" not in text and text.strip("./~ ")),
    st.just(png(PICTURE)),
    st.builds(lambda: io.BytesIO(png(PICTURE))),
    st.just(Image.fromarray(PICTURE)),
    st.just({"a": PICTURE}),
    st.just(np.array(["no/such/file.png"])),
)


@cases()
@hypothesis.given(st.one_of(things, st.lists(things, max_size=3)), st.sampled_from([1, 3, 10, 0, 11]))
def test_fuzz_anything_is_classified_as_plain_keras_does_or_refused(model, given, top):
    bad = []
    found = outcome(cc.predict, model, given, top, on_error=bad.append)
    assert all("\n" not in str(error) and len(str(error)) < 700 for error in bad)
    for answer in found or ():
        assert answer.probabilities.shape == (10,)
        assert np.isclose(answer.probabilities.sum(), 1, atol=1e-3)
        assert answer.label == cc.CLASSES[int(answer.probabilities.argmax())]
        assert len(answer.top) == top
    if found and isinstance(given, np.ndarray):
        batch = given if given.ndim == 4 else given[None]
        assert len(found) + len(bad) == len(batch)
        if not bad:
            expected = model.predict_on_batch(batch.astype("float32"))
            np.testing.assert_allclose([answer.probabilities for answer in found], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["content", "deliver", "corrupt"])
@cases()
@hypothesis.given(images=arrays.map(lambda pair: pair[0]), setting=st.sampled_from([0, 1, 3, 40, -2, 2.5, "x"]))
def test_fuzz_images_are_degraded_or_refused(images, name, setting):
    degrade = getattr(cc.study.degrade, name)
    further = {"content": (setting,), "deliver": (setting, "bicubic"), "corrupt": ("jpeg", setting)}[name]
    made = outcome(degrade, images, *further)
    if made is not None:
        assert made.dtype == np.uint8
        assert len(made) == len(images)
        assert images.dtype == np.uint8


fields = st.sampled_from(
    [
        {"learning_rate": 0.1},
        {"learning_rate": 1e8, "warmup": 0.0},
        {"learning_rate": -1.0},
        {"stages": ()},
        {"stages": ((1, 24),)},
        {"stages": [[1, 16], [1, 32]]},
        {"batch_size": 0},
        {"batch_size": 1000},
        {"averaging": (1, 0.1)},
        {"averaging": 3},
        {"augmentation": None},
        {"augmentation": lambda images, labels, random: (images[:1], labels)},
        {"optimizer": keras.optimizers.Adam},
        {"optimizer": "adam"},
        {"label_smoothing": 2},
        {"flip": False},
        {"enlargements": ("bicubic", "nearest")},
        {"seed": -1},
    ]
)
TINY = dataclasses.replace(cc.RECIPES["custom_cnn"], stages=((1, 32),), batch_size=10, averaging=None)


@cases(0.25)
@hypothesis.given(fields, arrays, label_kinds)
def test_fuzz_a_training_works_or_is_refused_before_it(tmp_path_factory, change, given_array, kind):
    images, _ = given_array
    toy = cc.make_toy_data(train=20, validation=10, test=10)
    odd = cc.Split(images, truths(kind, len(images), 0)[0])
    for data in (toy, dataclasses.replace(toy, train=odd)):
        model = cc.build_custom_cnn(widths=(8, 8, 8))
        before = model.get_weights()
        recipe = outcome(dataclasses.replace, TINY, **change)
        history = recipe and outcome(cc.train, model, data, recipe, tmp_path_factory.mktemp("run"))
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
        if history:
            assert all(np.isfinite(row["val_loss"]) for row in history)
        elif change.get("learning_rate") != 1e8:
            assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@cases()
@hypothesis.given(st.one_of(st.integers(-3, 40), st.floats(), st.text(max_size=3), st.none()), things)
def test_fuzz_small_functions_answer_or_refuse(number, thing):
    data = outcome(cc.make_toy_data, 0, number, 2, 2)
    if data is not None:
        assert len(data.train) == number
    if isinstance(thing, np.ndarray) and (found := outcome(digests, thing)) is not None:
        assert found.shape == (len(thing),)
        assert thing.dtype == np.uint8
    if isinstance(thing, str):
        assert outcome(cc.load_card, thing) is None
        assert outcome(cc.load_model, thing) is None
    few = outcome(cc.few_images.training_set, cc.make_toy_data().train, number)
    assert few is None or len(few) == 10 * number
    recipe = outcome(cc.few_images.recipe, "custom_cnn", number)
    assert recipe is None or recipe.epochs >= 2
    outcome(cc.few_images.plot, thing)
    outcome(cc.few_images.images_needed, thing, "custom_cnn", 0.5)
    outcome(cc.with_preprocessing, thing)
    for draw in (cc.plots.learning_curves, cc.plots.confusion, cc.plots.gallery, cc.plots.per_class):
        outcome(draw, thing)


def test_a_good_share_of_the_calls_was_answered():
    if not {"evaluate", "score", "corrupt"} <= set(ANSWERED):
        pytest.skip("the tests above did not run")
    for name in ("evaluate", "score", "predict", "content", "deliver", "corrupt", "train"):
        assert np.mean(ANSWERED[name]) >= 0.1, name
