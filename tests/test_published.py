"""The trainings of the published networks, on made data: their figures are those of results/."""

import dataclasses
import json

import keras
import numpy as np
import published
import pytest

import cifar_compare as cc
from cifar_compare.models import resize
from cifar_compare.roles import parts


def test_the_last_fifty_layers_learn_with_their_batchnorm():
    network = parts(published.published_mobilenet_v2(None, 32))[1]
    assert network.count_params() == 2_270_794
    learns = {layer.name: layer.trainable for layer in network.layers if layer.weights}
    assert not learns["block_11_depthwise_BN"]  # the published notebook freezes base_model.layers[:-50]
    assert learns["block_11_project"]
    assert learns["block_11_project_BN"]
    assert learns["Conv_1_bn"]


def test_pictures_are_enlarged_bilinearly_as_published():
    preprocessing = parts(published.published_mobilenet_v2(None, 96))[0]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    expected = resize(pixels, 96, antialias=False, interpolation="bilinear")
    np.testing.assert_allclose(preprocessing.predict_on_batch(pixels), expected, atol=1e-3)


def test_the_published_cnn_has_the_published_layers():
    network = parts(published.published_cnn())[1]
    assert network.count_params() == 3_251_786
    assert [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)] == [0.25, 0.3, 0.4, 0.5]


@pytest.fixture(params=["published_cnn", "published_mobilenet_v2"])
def build(request):
    """A call that builds either network, MobileNetV2 small."""
    built = {"published_cnn": published.published_cnn, "published_mobilenet_v2": published.published_mobilenet_v2}
    options = {"weights": None, "size": 32} if "mobilenet" in request.param else {}
    return lambda: built[request.param](**options)


def test_it_goes_on_where_it_was_stopped_and_keeps_what_validation_chose(build, tmp_path, monkeypatch):
    data, name = cc.make_toy_data(train=64, validation=20, test=20), build().name
    stopped, recipe = (dataclasses.replace(published.RECIPES[name], epochs=epochs) for epochs in (1, 2))
    keras.utils.set_random_seed(1)
    published.train(build(), data, stopped, tmp_path, tmp_path)
    (tmp_path / f"{name}.keras").unlink()
    told = published.train(build(), data, recipe, tmp_path, tmp_path)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == told
    keras.utils.set_random_seed(1)
    at_once = published.train(build(), data, recipe, tmp_path / "b", tmp_path / "b")
    for row, other in zip(told["history"], at_once["history"], strict=True):
        assert row | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, rel=1e-3)
    kept = keras.saving.load_model(tmp_path / f"{name}.keras")
    found = cc.evaluate(kept, data.validation).accuracy
    assert found == pytest.approx(published.chosen(told["history"], "val", recipe)[0]["val_accuracy"])
    monkeypatch.setattr(published, "_learner", lambda *_: pytest.fail("it is trained already"))
    assert published.train(build(), data, recipe, tmp_path, tmp_path) == told


def test_a_checkpoint_of_other_data_is_refused(build, tmp_path):
    data, other = (cc.make_toy_data(seed, train=64, validation=40, test=40) for seed in (0, 1))
    recipe = dataclasses.replace(published.RECIPES[build().name], epochs=1)
    published.train(build(), data, recipe, tmp_path, tmp_path / "results")
    (tmp_path / f"{build().name}.keras").unlink()
    with pytest.raises(SystemExit, match="another data_fingerprint: remove it"):
        published.train(build(), other, recipe, tmp_path, tmp_path / "results")


@pytest.mark.parametrize(
    ("accuracies", "epoch", "stopped"),
    [
        ((0.88, 0.89, 0.92, 0.91, 0.92, 0.91), 3, True),  # the first of equals
        ((0.88, 0.89, 0.92, 0.91, 0.92), 3, False),
        ((0.88, 0.87, 0.86, 0.85, 0.99), 1, True),  # what comes after the stop does not count
    ],
)
def test_early_stopping_keeps_the_best_epoch(accuracies, epoch, stopped):
    history = [{"epoch": i, "val_accuracy": accuracy} for i, accuracy in enumerate(accuracies, 1)]
    row, ended = published.chosen(history, "val", published.RECIPES["published_mobilenet_v2"])
    assert (row["epoch"], ended) == (epoch, stopped)


def test_the_cnn_is_chosen_by_its_loss():
    history = [{"epoch": i, "val_loss": loss} for i, loss in enumerate((0.5, 0.4, 0.45, 0.41, 0.4, 0.42, 0.41), 1)]
    row, ended = published.chosen(history, "val", published.RECIPES["published_cnn"])
    assert (row["epoch"], ended) == (2, True)


def test_the_learning_rate_is_halved_as_keras_does_it():
    losses = [0.5, 0.4, 0.45, 0.41, 0.42, 0.43, 0.44, 0.45, 0.39, 0.4, 0.4, 0.4]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1.0), "mse")
    callback = keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, 3, min_delta=0)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        history = [{"val_loss": each} for each in losses[: epoch + 1]]
        assert float(model.optimizer.learning_rate) == 0.5 ** published.halvings(history, 3)
    assert published.halvings(history, None) == 0
    assert published.halvings(history, 3) == 3


def test_what_is_recorded_stopped_by_its_own_rule():
    for name in published.trained():
        record, recipe = json.loads((published.RESULTS / f"{name}.json").read_text()), published.RECIPES[name]
        stops = [published.chosen(record["history"], split, recipe)[1] for split in ("val", "test")]
        assert all(stops) or len(record["history"]) == recipe.epochs
