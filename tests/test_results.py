"""What is shipped and what is told about it agree: weights, cards, recorded predictions, README."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial

import data_efficiency
import experiments
import figures
import numpy as np
import published
import pytest
import readme
import release
import study
from matplotlib.text import Text
from PIL import Image
from scipy.stats import binomtest

import cifar_compare as cc
from cifar_compare import few_images
from cifar_compare.artefacts import NAMES, SHIPPED, verify
from cifar_compare.data import digests
from cifar_compare.evaluation import proportion_interval
from cifar_compare.recipes import describe
from cifar_compare.roles import multiply_adds, parts
from cifar_compare.study.conditions import FIRST


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
    recipe = cc.RECIPES[card["recipe"]["name"]]
    low, high = recipe.expected_accuracy
    assert low <= card["test"]["accuracy"] <= high
    assert experiments.on_two_cores(card)["seconds"] / 60 <= min(100, 1.25 * recipe.expected_minutes)


def test_card_tells_the_recipe_that_is_in_the_code(name, card):
    assert card["recipe"] == describe(cc.RECIPES[card["recipe"]["name"]])


def test_history_has_every_epoch(name, card):
    recipe = cc.RECIPES[card["recipe"]["name"]]
    epochs = [row["epoch"] for row in card["history"]]
    assert epochs == list(range(0 if recipe.head_epochs else 1, recipe.epochs + 1))
    last = card["history"][-1]["val_accuracy"]
    if "shares" in card:  # averaged with the model that it started from
        told, tried = card["shares"], {row["share"]: row["validation"] for row in card["shares"]["tried"]}
        assert tried[1.0] == pytest.approx(last, abs=2e-3)
        least = cc.load_card(name.removesuffix("_robust"))["validation"]["accuracy"] - release.PRICE
        assert told["chosen"] == max(share for share, accuracy in tried.items() if accuracy > least)
        last = tried[told["chosen"]]
    assert last == pytest.approx(card["validation"]["accuracy"], abs=2e-3)


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
    low, high = cc.RECIPES[card["recipe"]["name"]].expected_accuracy
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
    routes = cc.study.ROUTES[:3] if card["input_size"] == 32 else cc.study.ROUTES
    cells = {(f"{name}/{c.name}/{route}", c.n) for c in cc.study.CONDITIONS for route in c.routes if route in routes}
    assert {(key, row["n"]) for key, row in rows.items()} == cells
    assert {row["model_sha256"] for row in rows.values()} == {card["sha256"]}
    native, recorded = rows[f"{name}/content-32/preprocessing"], cc.load_predictions(name)
    assert native["accuracy"] == pytest.approx(recorded.accuracy, abs=3e-4)
    if name != NAMES[0]:
        paired = cc.compare(recorded, cc.load_predictions(NAMES[0]))
        assert native["minus_first"] == pytest.approx(paired.difference, abs=6e-4)


def test_what_the_pages_say_of_low_resolution_is_true():
    told = readme.Study()
    of, (cnn, mobile) = told.rows, NAMES
    for condition in ("published", "published-truck"):  # most of the loss is the bypass's
        row = of[f"{mobile}/{condition}/bypass-nearest"]
        assert row["minus_preprocessing_high"] < 0
        assert row["minus_preprocessing"] / row["minus_native"] > 0.5
        assert of[f"{mobile}/{condition}/preprocessing"]["minus_first_low"] > 0  # "shrink first", and it leads
    for harmless in ("1080-bicubic/bypass-nearest", "1080-nearest/preprocessing"):
        assert of[f"{mobile}/{harmless}"]["minus_native_low"] > -0.02
    assert of[f"{mobile}/1080-bicubic/bypass-nearest"]["minus_native_high"] > 0  # no measurable harm
    for harm in ("1080-nearest/bypass-nearest", "native/bypass-nearest"):
        assert of[f"{mobile}/{harm}"]["minus_native_high"] < -0.5
    for name in NAMES:  # the least and the greatest cost that are named are that
        larger = [c.name for c in cc.study.DELIVERIES if c.study == "delivery" and c.size > 32]
        costs = sorted(larger, key=lambda condition: of[f"{name}/{condition}/preprocessing"]["minus_native"])
        assert (costs[0], costs[-1]) == ("1080-bilinear", "224-nearest")
    assert of[f"{cnn}/published/bypass-nearest"]["minus_preprocessing_low"] > 0

    leads = [f"content-{px}" for px in (32, 24, 16, 12, 8)] + [f"gaussian_blur-{i}" for i in range(2, 6)]
    leads = dict.fromkeys(leads + [f"{c}-{i}" for c in ("gaussian_noise", "contrast") for i in range(1, 6)], mobile)
    leads |= dict.fromkeys([f"jpeg-{i}" for i in range(1, 6)] + [f"pixelate-{i}" for i in (1, 2, 3)], "")
    leads |= {"gaussian_blur-1": "", "pixelate-4": cnn, "pixelate-5": cnn}
    assert told.leads() == leads
    for i in range(1, 6):
        noise = of[f"{mobile}/gaussian_noise-{i}/bypass-bilinear"]
        assert min(noise["minus_first_low"], noise["minus_preprocessing_low"]) > 0
    noise, pale = told.damaged("gaussian_noise"), told.damaged("contrast")
    assert noise["custom_cnn_robust"] - noise["mobilenet_v2_robust"] >= 2
    assert pale["mobilenet_v2_robust"] - pale["custom_cnn_robust"] >= 2
    for name in set(SHIPPED) - set(NAMES):  # robust models are
        assert told.damaged()[name] > told.damaged()[name.removesuffix("_robust")]


def test_what_the_pages_say_of_cifar_10_c_is_true():
    told, kinds = readme.Study(), set(readme.BY_HAND["robustbench"]["AugMix"])
    assert kinds == set(cc.study.degrade.SEVERITIES) - {"gaussian_blur"}
    every = told.of_cifar_10_c()
    noise = {"gaussian_noise", "shot_noise", "impulse_noise"}
    quiet, new = (told.of_cifar_10_c(kinds - found) for found in (noise, {"gaussian_noise", *FIRST}))
    cnn, mobile = NAMES
    assert abs(every[mobile] - every["Standard"]) < 3 < 5 < every["Standard"] - every[cnn]
    loud = told.of_cifar_10_c(noise)
    assert loud[mobile] < loud["Standard"] - 5
    assert quiet[mobile] > quiet["Standard"] + 3
    unlike = ("brightness", "elastic_transform", "fog", "frost", "snow")
    assert len(kinds - {"gaussian_noise", *FIRST} - set(unlike)) == 6
    rest = told.of_cifar_10_c(unlike)
    for name in NAMES:
        assert 0 < rest[f"{name}_robust"] - rest[name] < new[f"{name}_robust"] - new[name], "the gain is smaller"
    assert abs(quiet[cnn] - quiet["Standard"]) < 3, "without noise the two are about level"
    assert every["published_cnn"] > every[cnn], "ahead of ours"
    assert quiet["published_cnn"] < quiet[cnn], "without noise it is behind"
    for name in NAMES:  # robust training carries over
        assert new[f"{name}_robust"] - new[name] > 5
        assert every["AugMix"] - every[f"{name}_robust"] > 1, "still better"
    few = [row["n"] for row in told.rows.values() if row["study"] == "cifar-10-c"]
    assert set(few) == {1000}
    assert 1.96 * (0.25 / min(few)) ** 0.5 < 0.0315, "off by up to three points"


@pytest.mark.parametrize("name", published.trained())
def test_the_study_holds_the_published_networks_whole(name):
    rows = {row["id"]: row for row in cc.study.read(study.TABLE) if row["model"] == name}
    routes = cc.study.ROUTES[:3] if name == "published_cnn" else cc.study.ROUTES
    assert rows.keys() == {f"{name}/{c.name}/{r}" for c in cc.study.CONDITIONS for r in c.routes if r in routes}
    assert {row["model_sha256"] for row in rows.values()} == {published.trained()[name][1]}
    accuracy = readme.selection(name)["val"]["test_accuracy"]
    assert rows[f"{name}/content-32/preprocessing"]["accuracy"] == pytest.approx(accuracy, abs=1e-3)


def test_what_the_pages_say_of_four_networks_in_noise_is_true():
    told = readme.Study().rows
    low, high = ({row: told[row][f"accuracy_{end}"] for row in told} for end in ("low", "high"))
    for i in range(1, 6):
        place = f"gaussian_noise-{i}/preprocessing"
        assert told[f"mobilenet_v2/{place}"]["minus_first_low"] > 0, "ours leads at every strength"
        assert low[f"published_cnn/{place}"] > high[f"custom_cnn/{place}"]
        assert low[f"published_mobilenet_v2/{place}"] > high[f"published_cnn/{place}"], "so does the published one"
        assert low[f"published_cnn/{place}"] > high[f"mobilenet_v2/{place}"], "which is behind both published networks"
    cnn, mobile = "published_cnn", "published_mobilenet_v2"
    for ahead, behind, kind in ((cnn, mobile, "pixelate"), (mobile, cnn, "gaussian_blur")):
        for i in (4, 5):
            place = f"{kind}-{i}/preprocessing"
            assert low[f"{ahead}/{place}"] > high[f"{behind}/{place}"]
            ends = [told[f"mobilenet_v2/{place}"][f"minus_first_{end}"] for end in ("low", "high")]
            assert max(ends) < 0 if ahead == cnn else min(ends) > 0, "in both pairs in the same way"
    for name in ("published_cnn", "published_mobilenet_v2"):
        assert high[f"{name}/content-32/preprocessing"] < low["custom_cnn/content-32/preprocessing"] - 0.04


def test_what_the_pages_say_of_the_published_networks_is_true():
    told, name = readme.Study().rows, "published_mobilenet_v2"
    straight, shrunk = (
        {network: told[f"{network}/published/{route}"]["accuracy"] for network in (name, "published_cnn")}
        for route in ("bypass-nearest", "preprocessing")
    )
    assert straight["published_cnn"] - straight[name] > 0.3 > 0.04 > shrunk["published_cnn"] - shrunk[name] > 0
    assert told["mobilenet_v2/published/preprocessing"]["minus_first_low"] > 0, "as ours does"
    straight = told[f"{name}/published/bypass-nearest"]
    assert straight["minus_native_high"] < -0.2
    assert straight["minus_preprocessing"] / straight["minus_native"] > 0.8, "the account holds"
    assert told[f"{name}/native/bypass-bilinear-224"]["minus_native_high"] < -0.1, "not all of it is the blocks'"
    trucks = readme.facts()["trucks"]["models"][name]
    assert Counter(trucks["bypass-nearest-224"]["answers"]).most_common(1)[0][0] == "cat"
    assert trucks["bypass-nearest-224"]["right"] < 5 < 15 < trucks["preprocessing"]["right"]
    assert "cat" not in trucks["bypass-nearest"]["answers"], "the cat comes back only at an untrained size"
    assert trucks["bypass-nearest"]["right"] >= trucks["preprocessing"]["right"], "does not hold at 96×96"

    for network, theirs in zip(published.RECIPES, NAMES, strict=True):
        by = readme.selection(network)
        added = by["test"]["test_accuracy"] - by["val"]["test_accuracy"]
        assert 0 <= added < 0.005, "choosing by the test split adds little"
        assert by["test"]["test_accuracy"] < readme.BY_HAND["published"][theirs]
        assert (by["test"]["epoch"] == by["val"]["epoch"]) == (network == "published_cnn"), "the same epoch"
    assert by["input_size"] == 96


def test_what_the_readme_says_of_few_images_is_true():
    rows = few_images.read(data_efficiency.TABLE)
    of = {(row["arm"], row["images_a_class"]): row for row in rows if row["draw"] == 0}
    cnn, mobile = NAMES
    assert of[mobile, 50]["low"] - of[cnn, 50]["high"] > 0.2  # "by a lot"
    assert of["mobilenet_v2_head", 50]["seconds"] < 60
    assert of[mobile, 50]["low"] > of["mobilenet_v2_head", 50]["high"] > of[cnn, 50]["high"]
    assert 150 < few_images.images_needed(rows, cnn, of[mobile, 10]["accuracy"]) < 1000  # told in hundreds


def test_what_the_readme_advises_follows_from_the_figures():
    facts = readme.facts()
    low, high = facts["paired"].interval
    assert 0 < low < high < 0.02, "fine-tuning no longer wins by a little: write the first sentence anew"
    exports, (cnn, mobile) = {(row["model"], row["precision"]): row for row in facts["timed"]["exports"]}, NAMES
    assert min(exports.values(), key=lambda row: row["bytes"]) is exports[mobile, "int8"]
    assert exports[mobile, "int8"]["accuracy"] > exports[cnn, "int8"]["accuracy"]
    lite = {row["model"]: row["latency_ms"] for row in facts["timed"]["inference"] if row["on"].startswith("LiteRT")}
    assert lite[mobile] == min(lite.values())
    answers = facts["answers"]
    for name in NAMES:
        low, high = cc.compare(answers[f"{name}_robust"], answers[name]).interval
        assert low < 0 < high, "the README says that no robust model is shown to be worse on clean pictures"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_pages_say_of_the_robust_models_averaging_is_true(name):
    clean, card = cc.load_card(name)["validation"]["accuracy"], cc.load_card(f"{name}_robust")
    tried = {row["share"]: row for row in card["shares"]["tried"]}
    chosen, end = tried[card["shares"]["chosen"]], tried[1.0]
    assert clean - chosen["validation"] < (clean - end["validation"]) / 2, "gives back more than half"
    assert end["damaged_validation"] - chosen["damaged_validation"] < 0.02, "less than two points behind"
    assert release.PRICE == 0.005, "half a point"
    assert card["test"]["ece_before_temperature"] < 0.02, "little was left to correct"


def test_the_figure_shows_the_shipped_models_and_the_figures_of_the_study():
    for path in (readme.FIGURE, readme.FIGURE.with_stem("handed-narrow")):
        with Image.open(path) as image:
            info = image.info
        assert info["models"] == " ".join(cc.load_card(name)["sha256"] for name in NAMES), "run scripts/figures.py"
        for heading, *place in figures.TILES:
            assert heading in info["Description"]
            assert figures.accuracy(*place) in info["Description"]
    said = re.findall(r"says (\w+),", info["Description"])
    assert said == ["truck", "cat", "truck"], "the sentences of the README tell this"


def test_the_published_mistake_comes_back():
    told = readme.facts()["trucks"]
    hashes = {name: cc.load_card(name)["sha256"] for name in SHIPPED}
    hashes |= {name: sha256 for name, (_, sha256) in published.trained().items()}
    assert told["model_sha256"] == hashes, "run scripts/trucks.py"
    shrunk, straight = (told["models"][NAMES[1]][route] for route in ("preprocessing", "bypass-nearest-224"))
    assert shrunk["right"] == told["views"] == len(straight["answers"])
    assert straight["right"] <= 0.2 * told["views"]
    assert Counter(straight["answers"]).most_common(1)[0][0] == "cat"
    assert "cat" not in told["models"][NAMES[1]]["bypass-nearest"]["answers"], "it comes back only at 224 px"


def test_the_published_cnn_of_the_race_ended_as_high_as_that_by_its_recipe():
    best = readme.selection("published_cnn")["val"]["val_accuracy"]
    assert readme.facts()["timed"]["race"]["published_best"] == pytest.approx(best, abs=0.002)


def test_the_released_cnn_is_the_better_training_with_seed_0():
    found = [row["validation_accuracy"] for row in experiments.trainings(cc.load_card(NAMES[0])) if row["seed"] == 0]
    assert len(found) == 2
    assert found[0] == max(found)


def test_what_the_pages_say_of_the_first_layer_in_noise_is_true():
    rows = [row for row in experiments.recorded() if row["idea"] == "whitening"]
    whitens, learnt = (np.array([row[name] for row in rows]) for name in ("recipe", "no-whitening"))
    assert len(rows) > 1
    assert 0 < np.min(whitens[:, 0] - learnt[:, 0]) <= np.max(whitens[:, 0] - learnt[:, 0]) < 0.0125
    assert np.max(whitens[:, 1:4] / learnt[:, 1:4]) < 0.5, "up to the third strength"
    of = readme.Study().rows
    assert np.min(learnt[:, 1]) > of["mobilenet_v2/gaussian_noise-1/preprocessing"]["accuracy_high"]
    lead = of["mobilenet_v2/gaussian_noise-5/preprocessing"]["minus_first"]
    assert np.ptp(whitens[:, 5]) > lead, "could vanish with another seed"


def test_the_figure_about_few_images_is_that_of_the_table():
    for path in (readme.FEW, readme.FEW.with_stem("few-images-narrow")):
        with Image.open(path) as image:
            info = image.info
        digest = hashlib.sha256(data_efficiency.TABLE.read_bytes()).hexdigest()
        assert info["table"] == digest, "run scripts/figures.py"
        assert info["Description"] == figures.told_few()


def test_the_figures_are_readable_where_they_are_shown():
    tiles = [
        (heading, np.zeros((8, 8, 3), np.uint8), "says cat, 26 %", figures.accuracy(*at))
        for heading, *at in figures.TILES
    ]
    drawn = [
        (draw(narrow), shown)
        for narrow, shown in ((False, 830), (True, 358))
        for draw in (partial(figures.draw, tiles), figures.draw_few)
    ]
    for figure, shown in drawn:
        scale = shown / figure.get_figwidth() / 72  # px a point
        figure.draw_without_rendering()
        inside = figure.bbox.padded(1)
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert len(texts) >= 8
        for text in texts:
            assert text.get_fontsize() * scale >= 11
            box = text.get_window_extent()
            assert inside.contains(*box.min), text
            assert inside.contains(*box.max), text


def test_pages_are_the_filled_templates():
    for path, text in readme.filled().items():
        assert path.read_text() == text, f"{path.name} differs from its template: run `python scripts/readme.py`"


def test_a_changed_figure_would_be_noticed(monkeypatch):
    card = cc.load_card("custom_cnn")
    card["test"] |= {"accuracy": 0.9123, "interval": [0.91, 0.92]}
    monkeypatch.setattr(cc, "load_card", lambda name, load=cc.load_card: card if name == "custom_cnn" else load(name))
    assert "| **91.2 %** (" in readme.filled()[readme.ROOT / "README.md"]


@pytest.mark.parametrize(
    ("value", "ends", "text"),
    [
        (0.95, (0.9455, 0.9542), "95.0 % [94.5, 95.4]"),
        (0.3345, (0.314, 0.356), "33 % [31, 36]"),
        (-0.001, (-0.003, 0.001), "-0.1 % [-0.3, 0.1]"),
        (0.0005, (1e-5, 0.003), "0.1 % [0.0, 0.3]"),
        (0.5, (0.5, 0.5), "50.0 % [50.0, 50.0]"),
        (0.003, (-0.0002, 0.0064), "0.3 % [0.0, 0.6]"),
    ],
)
def test_figures_have_the_digits_that_the_interval_supports(value, ends, text):
    assert " ".join(readme.told(value, ends)) == text


def prose():
    """The paragraphs of the README, without tables, code, headings and HTML."""
    text = re.sub(r"```.*?```|<picture>.*?</picture>", "", (readme.ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [part for part in re.split(r"\n\s*\n", text) if part.strip() and not part.lstrip().startswith(("|", "#"))]


def test_the_readme_is_short():
    counts = [len(part.split()) for part in prose()]
    assert sum(counts) <= 800
    assert max(counts) <= 90
    rows = readme.Study().rows
    assert not [row for row in rows if row in (readme.ROOT / "README.md").read_text()]


def test_row_ids_stand_only_in_the_table_at_the_end():
    before, table = (readme.ROOT / "docs" / "low-res.md").read_text().split("## Where each figure comes from")
    rows = readme.Study().rows
    assert not [row for row in rows if row in before]
    assert len([row for row in rows if f"| {row} |" in table]) > 20
