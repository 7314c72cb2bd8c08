"""What is shipped and what is told about it agree: weights, cards, recorded predictions, README."""

import itertools
import os
import subprocess
import sys

import experiments
import numpy as np
import pytest
import readme
import release
import study
from scipy.stats import binomtest

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, SHIPPED, verify
from cifar_compare.data import digests
from cifar_compare.evaluation import proportion_interval
from cifar_compare.recipes import describe
from cifar_compare.roles import multiply_adds, parts


@pytest.fixture(scope="module", params=SHIPPED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def card(name):
    return cc.load_card(name)


@pytest.fixture(scope="module")
def model(name):
    return cc.load_model(name)


def test_card_describes_its_file(name, card, model):
    assert verify(name, card).stat().st_size == card["bytes"]
    assert card["parameters"] == model.count_params()
    assert card["multiply_adds"] == multiply_adds(model)


def test_card_follows_from_the_recorded_predictions(name, card):
    recorded, test = cc.load_predictions(name), card["test"]
    assert len(recorded.labels) == test["n"] == 10_000
    assert (np.bincount(recorded.labels) == 1000).all()
    assert test["accuracy"] == recorded.accuracy
    interval = binomtest(round(test["accuracy"] * 10_000), 10_000).proportion_ci(0.95, "exact")
    np.testing.assert_allclose(test["interval"], interval)
    assert test["nll"] == pytest.approx(recorded.nll)
    assert test["ece"] == pytest.approx(recorded.ece)
    assert recorded.probabilities.dtype == np.float32


def test_accuracy_and_time_lie_in_what_the_recipe_promises(name, card):
    recipe = cc.RECIPES[name]
    low, high = recipe.expected_accuracy
    assert low <= card["test"]["accuracy"] <= high
    assert experiments.on_two_cores(card)["seconds"] / 60 <= min(100, 1.25 * recipe.expected_minutes)


def test_card_tells_the_recipe_that_is_in_the_code(name, card):
    assert card["recipe"] == describe(cc.RECIPES[name])


def test_history_has_every_epoch(name, card):
    recipe = cc.RECIPES[name]
    epochs = [row["epoch"] for row in card["history"]]
    assert epochs == list(range(0 if recipe.head_epochs else 1, recipe.epochs + 1))
    assert card["history"][-1]["val_accuracy"] == pytest.approx(card["validation"]["accuracy"], abs=2e-3)


def test_shipped_model_holds_nothing_but_inference(model):
    assert not model.compiled
    layers = [layer for part in parts(model) for layer in part.layers]
    assert all(type(layer).__module__.startswith("keras.") for layer in layers)
    assert not any("random" in type(layer).__name__.lower() for layer in layers)
    assert all(layer.dtype_policy.name == "float32" for layer in layers)
    assert all(variable.dtype == "float32" for variable in model.variables)


KERAS_ALONE = """
import sys
import keras, numpy as np
images, model = np.load(sys.argv[2]), keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], np.concatenate([model.predict_on_batch(images[i:i + 250]) for i in range(0, len(images), 250)]))
assert "cifar_compare" not in sys.modules
"""


def test_keras_and_numpy_alone_find_the_accuracy_and_the_recorded_answers(name, card, cifar10, tmp_path):
    np.save(tmp_path / "in.npy", cifar10.test.images)
    command = [sys.executable, "-c", KERAS_ALONE, str(verify(name, card)), tmp_path / "in.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probabilities, recorded = np.load(tmp_path / "out.npy"), cc.load_predictions(name)
    answers = probabilities.argmax(axis=1)
    low, high = cc.RECIPES[name].expected_accuracy
    assert low <= (answers == cifar10.test.labels).mean() <= high
    np.testing.assert_allclose(probabilities, recorded.probabilities, atol=1e-3)
    assert (answers != recorded.predictions).sum() <= 3


def test_recorded_predictions_join_on_the_images(name, card, cifar10):
    with np.load(verify(name, card, "test_predictions")) as file:
        np.testing.assert_array_equal(file["digests"], digests(cifar10.test.images))
        np.testing.assert_array_equal(file["labels"], cifar10.test.labels)


def test_card_tells_how_many_pictures_of_something_else_are_caught(card, model):
    told = card["out_of_distribution"]["caught"]
    again = release.share_below(model, card["out_of_distribution"]["threshold"])
    assert list(told) == list(again) == ["photograph_tiles", "digits"]
    for kind, entry in told.items():
        assert entry["n"] == again[kind]["n"] > 0
        assert entry["share"] == pytest.approx(again[kind]["share"], abs=0.01)  # pictures at the threshold may go over
        low, high = entry["interval"]
        assert low <= entry["share"] <= high
        assert (low, high) == pytest.approx(proportion_interval(round(entry["share"] * entry["n"]), entry["n"]))


def test_threshold_has_the_false_alarms_it_claims(card, model, cifar10):
    highest = cc.evaluate(model, cifar10.validation).probabilities.max(axis=1)
    told = card["out_of_distribution"]
    assert np.isclose(told["threshold"], np.quantile(highest, told["false_alarms"]), atol=1e-3)


JAX = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy as np
assert keras.backend.backend() == "jax" and "tensorflow" not in sys.modules
model = keras.saving.load_model(sys.argv[1])
assert "cifar_compare" not in sys.modules
np.save(sys.argv[3], np.asarray(model(np.load(sys.argv[2]))))
"""


def test_shipped_file_answers_the_same_on_jax_with_keras_alone(name, card, model, tmp_path):
    pytest.importorskip("jax")
    pictures = np.random.default_rng(0).integers(256, size=(4, 48, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "in.npy", pictures)
    command = [sys.executable, "-c", JAX, str(verify(name, card)), tmp_path / "in.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(pictures), atol=1e-4)


def test_low_res_table_is_whole_and_of_the_shipped_files(name, card):
    rows = {row["id"]: row for row in cc.study.read(study.TABLE) if row["model"] == name}
    routes = cc.study.ROUTES[:3] if name == NAMES[0] else cc.study.ROUTES
    cells = {(f"{name}/{c.name}/{route}", c.n) for c in cc.study.CONDITIONS for route in c.routes if route in routes}
    assert {(key, row["n"]) for key, row in rows.items()} == cells
    assert {row["model_sha256"] for row in rows.values()} == {card["sha256"]}
    native, recorded = rows[f"{name}/content-32/preprocessing"], cc.load_predictions(name)
    assert native["accuracy"] == pytest.approx(recorded.accuracy, abs=3e-4)
    if name != NAMES[0]:
        paired = cc.compare(recorded, cc.load_predictions(NAMES[0]))
        assert native["minus_first"] == pytest.approx(paired.difference, abs=6e-4)


def test_what_the_readme_concludes_from_the_table_is_true_of_its_figures():
    of = {row["id"]: row for row in cc.study.read(study.TABLE)}
    cnn, mobile, robust = SHIPPED
    held = 0.02  # what loses no more than this, by its interval, is said to hold

    for condition in ("published", "published-truck"):  # most of the loss is the bypass's
        row = of[f"{mobile}/{condition}/bypass-nearest"]
        assert row["minus_preprocessing_high"] < 0
        assert row["minus_preprocessing"] / row["minus_native"] > 0.5
    for harmless in ("1080-bicubic/bypass-nearest", "1080-nearest/preprocessing"):
        assert of[f"{mobile}/{harmless}"]["minus_native_low"] > -held
    for harm in ("1080-nearest/bypass-nearest", "native/bypass-nearest"):
        assert of[f"{mobile}/{harm}"]["minus_native_high"] < -0.5
    for name in (cnn, mobile):  # the least and the greatest cost that are named are that
        larger = [c.name for c in cc.study.DELIVERIES if c.study == "delivery" and c.size > 32]
        costs = sorted(larger, key=lambda condition: of[f"{name}/{condition}/preprocessing"]["minus_native"])
        assert (costs[0], costs[-1]) == ("1080-bilinear", "224-nearest")

    leads = [f"{condition}/preprocessing" for condition in ("published", "published-truck", "content-32")]
    leads += [f"content-{px}/preprocessing" for px in (24, 16, 12, 8)]
    leads += [f"{c}-{i}/preprocessing" for c in ("gaussian_noise", "gaussian_blur", "contrast") for i in range(1, 6)]
    leads += [f"gaussian_noise-{i}/bypass-bilinear" for i in range(1, 6)]
    assert all(of[f"{mobile}/{row}"]["minus_first_low"] > 0 for row in leads)
    for row in [f"jpeg-{i}" for i in range(1, 6)] + [f"pixelate-{i}" for i in (1, 2, 3)]:
        row = of[f"{mobile}/{row}/preprocessing"]
        assert row["minus_first_low"] < 0 < row["minus_first_high"]
    assert all(of[f"{mobile}/pixelate-{i}/preprocessing"]["minus_first_high"] < 0 for i in (4, 5))

    for route in ("bypass-nearest", "bypass-bilinear"):
        assert of[f"{robust}/published/{route}"]["minus_preprocessing_low"] > -held
    assert of[f"{robust}/published/bypass-nearest-224"]["minus_preprocessing_high"] < -held
    shares = [of[f"{name}/content-16/preprocessing"] for name in SHIPPED]
    assert all(a["accuracy_high"] < b["accuracy_low"] for a, b in itertools.pairwise(shares))


def test_readme_says_what_the_cards_say():
    text = readme.README.read_text()
    assert text == readme.fill(text), "README.md differs from the cards: run `python scripts/readme.py`"


def test_an_edited_readme_would_be_noticed():
    text = readme.README.read_text()
    figure = readme.percent(cc.load_card("custom_cnn")["test"]["accuracy"])
    assert readme.fill(text.replace(f"**{figure}**", "**99.99**")) == text
