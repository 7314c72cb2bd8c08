"""Releasing a model: what a training, a measurement and further seeds leave on the card, and what is refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import experiments
import keras
import numpy as np
import pytest
import readme
import release

import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED
from cifar_compare.roles import layers_of, parts


def test_a_model_is_trained_measured_and_replaced(tmp_path, monkeypatch):
    shipped_robust = cc.load_card("custom_cnn_robust")
    recipe = {"stages": ((1, 32),), "batch_size": 50, "averaging": None, "mixed_precision": False}
    monkeypatch.setitem(cc.RECIPES, "custom_cnn", dataclasses.replace(cc.RECIPES["custom_cnn"], **recipe))
    monkeypatch.setattr(release, "MODELS", tmp_path / "models")
    monkeypatch.setattr(release, "new_model", lambda name, seed: cc.build_custom_cnn(seed, (8, 8, 8)))
    monkeypatch.setattr(release, "TILE", 256)  # fewer pictures
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path / "models"))
    data = cc.make_toy_data(train=100, validation=50, test=40)

    def train_and_measure():
        release.train("custom_cnn", data, tmp_path / "runs")
        trained = cc.load_card("custom_cnn")
        assert not release.is_measured("custom_cnn")
        release.measure("custom_cnn", data)
        assert release.is_measured("custom_cnn")
        return trained, cc.load_card("custom_cnn")

    trained, card = train_and_measure()
    assert "test" not in trained
    recorded = cc.load_predictions("custom_cnn")
    np.testing.assert_allclose(
        cc.evaluate(cc.load_model("custom_cnn"), data.test).probabilities, recorded.probabilities
    )
    assert card["test"]["accuracy"] == recorded.accuracy
    assert card["temperature"] == trained["temperature"] != 1
    assert card["preprocessing_loss"]["n"] == 50
    documented = re.findall(
        r"^\| (`.*?`) \|", (Path(__file__).parents[1] / "models" / "README.md").read_text(), re.MULTILINE
    )
    fields = {field.strip("`") for cell in documented for field in cell.split(", ")}
    for told in (card, shipped_robust):
        assert told.keys() - {"name", "folder"} <= fields

    # Found finished, the same training is no further look at the test split, and keeps its other seeds.
    path = tmp_path / "models" / "custom_cnn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": [{"seed": 5}]}))
    _, card = train_and_measure()
    assert card["earlier_test_accuracies"] == []
    assert card["seeds"] == [{"seed": 5}]

    monkeypatch.setitem(cc.RECIPES, "custom_cnn", dataclasses.replace(cc.RECIPES["custom_cnn"], seed=1))
    _, replacing = train_and_measure()
    assert replacing["earlier_test_accuracies"] == [card["test"]["accuracy"]]
    assert "seeds" not in replacing


@pytest.mark.parametrize(("slope", "chosen"), [(0.008, 0.5), (0.001, 1.0), (0.1, 0.3)])
def test_a_robust_model_lies_as_far_from_its_start_as_clean_images_allow(slope, chosen, monkeypatch):
    start, model = (cc.build_custom_cnn(seed, (8, 8, 8)) for seed in (0, 1))
    for value, each in enumerate((start, model)):
        parts(each)[1].get_layer("logits").kernel.assign(np.full((8, 10), value, "float32"))
    data = cc.make_toy_data(train=100, validation=50, test=50)

    def accuracy(network, split):
        share = float(parts(network)[1].get_layer("logits").kernel.numpy().mean())
        return mock.Mock(accuracy=share if isinstance(split, tuple) else 0.95 - slope * share)

    monkeypatch.setattr(cc, "evaluate", accuracy)
    found = release.average(model, start, data, cc.RECIPES["custom_cnn_robust"])
    assert found["chosen"] == chosen
    assert [row["share"] for row in found["tried"]] == list(release.SHARES)
    assert [row["damaged_validation"] for row in found["tried"]] == pytest.approx(release.SHARES)
    network = parts(model)[1]
    np.testing.assert_allclose(network.get_layer("logits").kernel, chosen, rtol=1e-6)
    # A mean of weights has statistics of its own, which are those of the training images.
    norm = network.get_layer("norm1a")
    seen = keras.Model(network.inputs[0], norm.input)(data.train.images.astype("float32"))
    np.testing.assert_allclose(norm.moving_mean, np.mean(seen, axis=(0, 1, 2)), atol=1e-4)


TINY_RUN = """
import dataclasses, pathlib, sys
import cifar_compare as cc
import release

name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
release.MODELS, build_cnn, build_mobile = folder, cc.build_custom_cnn, cc.build_mobilenet_v2
cc.build_custom_cnn = lambda seed, **options: build_cnn(seed, (8, 8, 8), **options)
cc.build_mobilenet_v2 = lambda seed, **options: build_mobile(None, 32, seed, **options)
data = cc.make_toy_data(train=100, validation=50, test=50)
tiny = {"stages": ((1, 32),), "batch_size": 50, "head_epochs": 0, "mixed_precision": False}
cc.RECIPES[f"{name}_gpu"] = dataclasses.replace(cc.RECIPES[f"{name}_gpu"], **tiny)
release.train(name, data, folder / "runs", gpu=True)
answers = cc.load_model(folder / f"{name}.keras").predict(data.test.images.astype("float32"), verbose=0)
(folder / f"{name}.txt").write_text(str(answers.tolist()))
"""


# XLA compiles MobileNetV2's training for minutes on a processor, so that it is trained on TensorFlow here.
@pytest.mark.parametrize(("name", "backend"), [("custom_cnn", "jax"), ("mobilenet_v2", "tensorflow")])
def test_the_recipes_for_a_gpu_train_what_tensorflow_loads(name, backend, tmp_path):
    pytest.importorskip(backend)
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(Path(release.__file__).parent)}
    command = [sys.executable, "-c", TINY_RUN, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    images = cc.make_toy_data(train=100, validation=50, test=50).test.images.astype("float32")
    model, answers = cc.load_model(tmp_path / f"{name}.keras"), json.loads((tmp_path / f"{name}.txt").read_text())
    np.testing.assert_allclose(model.predict(images, verbose=0), answers, atol=1e-4)
    card = json.loads((tmp_path / f"{name}.json").read_text())
    assert (card["recipe"]["name"], card["versions"]["backend"]) == (f"{name}_gpu", backend)
    assert card["recipe"]["augmentation"]["cutmix"] == 0.5
    kind = keras.layers.Conv2D if name == "custom_cnn" else keras.layers.BatchNormalization
    assert all(layer.trainable_weights for layer in layers_of(parts(model)[1], kind))


def test_only_models_that_lack_figures_are_measured_and_what_is_done_is_told_first(monkeypatch, capsys):
    measured, there = [], {"custom_cnn", "mobilenet_v2"}
    monkeypatch.setattr(release, "is_measured", there.__contains__)
    monkeypatch.setattr(release, "measure", lambda name, data: measured.append(name))
    monkeypatch.setattr(cc, "load_cifar10", lambda: print("data are read"))
    for names in ([], ["mobilenet_v2"]):
        monkeypatch.setattr(sys, "argv", ["release.py", "measure", *names])
        release.main()
    assert measured == ["custom_cnn_robust", "mobilenet_v2_robust", "mobilenet_v2"]
    there.update(SHIPPED)
    monkeypatch.setattr(sys, "argv", ["release.py", "measure"])
    release.main()
    assert capsys.readouterr().out.splitlines() == [
        "measuring custom_cnn_robust, mobilenet_v2_robust, some 3 min each on two cores",
        "data are read",
        "measuring mobilenet_v2, some 3 min each on two cores",
        "data are read",
        "measuring nothing, all is there",
    ]


def test_a_model_without_a_recipe_for_a_gpu_is_refused():
    with pytest.raises(SystemExit, match="custom_cnn_robust has no recipe for a GPU; leave out --gpu"):
        release.recipe_of("custom_cnn_robust", gpu=True)


@pytest.fixture
def card(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "MODELS", tmp_path)
    path = tmp_path / "custom_cnn.json"
    path.write_text(json.dumps({key: value for key, value in cc.load_card("custom_cnn").items() if key != "seeds"}))
    return path


def test_a_further_seed_is_trained_as_the_released_one_and_put_onto_the_card(card, tmp_path):
    data, before, given = cc.make_toy_data(train=20, validation=50, test=30), json.loads(card.read_text()), []

    def spy(model, data, recipe, folder):
        given.append((model.get_weights(), recipe, folder))
        return [{"accuracy": 0.9, "seconds": 2.0, "hardware": "none"}] * 3

    with mock.patch.object(cc, "train", spy):
        rows = [release.add_seed("custom_cnn", seed, data, tmp_path / "runs") for seed in (2, 1, 2)]
    after = json.loads(card.read_text())
    assert after.pop("seeds") == [rows[1], rows[2]]
    assert after == before
    assert [rows[1][key] for key in ("seed", "seconds", "hardware")] == [1, 6.0, "none"]
    (two, recipe, folder), (one, *_), (again, *_) = given
    assert recipe == dataclasses.replace(cc.RECIPES["custom_cnn"], seed=2)
    assert folder == tmp_path / "runs" / "custom_cnn-seed2"
    assert all(np.array_equal(a, b) for a, b in zip(two, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(two, one, strict=True))


def test_the_released_seed_and_another_recipe_are_refused(card, tmp_path):
    data, told = cc.make_toy_data(train=20, validation=20, test=20), json.loads(card.read_text())
    with mock.patch.object(cc, "train") as trained:
        with pytest.raises(SystemExit, match="seed 0 is the released one"):
            release.add_seed("custom_cnn", 0, data, tmp_path)
        told["recipe"]["batch_size"] = 3
        card.write_text(json.dumps(told))
        with pytest.raises(SystemExit, match=r"another recipe; run `python scripts/release\.py train custom_cnn`"):
            release.add_seed("custom_cnn", 1, data, tmp_path)
    trained.assert_not_called()


CARD = {
    **{
        "recipe": {"seed": 0},
        "history": [{"accuracy": 0.9}],
        "validation": {"accuracy": 0.95},
        "test": {"accuracy": 0.8},
    },
    **{"training_seconds": 60.0, "hardware": "2 cores of a mill"},
}


def test_the_spread_is_that_of_all_trainings():
    assert readme.spread(CARD) == "one training"
    further = [{"seed": 1, "validation_accuracy": 0.953}, {"seed": 4, "validation_accuracy": 0.944}]
    # Mean 0.949; deviations 0.1, 0.4 and -0.5 points: the root of 0.42 / 2.
    assert readme.spread(CARD | {"seeds": further}) == "validation: 94.9&nbsp;±&nbsp;0.5&nbsp;% over 3 trainings"


def test_the_training_on_two_cores_is_found_wherever_it_is_told():
    gpu, mill = ({"seed": 1, "seconds": 9.0, "hardware": hardware} for hardware in ("a GPU", CARD["hardware"]))
    assert experiments.on_two_cores(CARD | {"seeds": [mill]})["seconds"] == 60.0
    assert experiments.on_two_cores(CARD | {"hardware": "a GPU", "seeds": [gpu, mill]}) == mill
    assert experiments.on_two_cores(CARD | {"hardware": "a GPU", "seeds": [gpu]})["seconds"] == 60.0
