"""The training of the published MobileNetV2, on made data: its figures are those of results/."""

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


def test_it_goes_on_where_it_was_stopped_and_keeps_what_validation_chose(tmp_path):
    data, record = cc.make_toy_data(train=64, validation=40, test=40), tmp_path / "published.json"
    for epochs in (1, 2):
        told = published.train(published.published_mobilenet_v2(None, 32), data, epochs, tmp_path, record)
    assert json.loads(record.read_text()) == told
    at_once = published.train(published.published_mobilenet_v2(None, 32), data, 2, tmp_path / "b", tmp_path / "b.json")
    for stopped, row in zip(told["history"], at_once["history"], strict=True):
        assert stopped | {"seconds": 0} == pytest.approx(row | {"seconds": 0}, rel=1e-4)
    kept = keras.saving.load_model(tmp_path / "published_mobilenet_v2.keras")
    found = cc.evaluate(kept, data.validation).accuracy
    assert found == pytest.approx(published.chosen(told["history"], "val")[0]["val_accuracy"])


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    data, other = (cc.make_toy_data(seed, train=64, validation=40, test=40) for seed in (0, 1))
    published.train(published.published_mobilenet_v2(None, 32), data, 1, tmp_path, tmp_path / "published.json")
    with pytest.raises(SystemExit, match="another data_fingerprint: remove it"):
        published.train(published.published_mobilenet_v2(None, 32), other, 2, tmp_path, tmp_path / "published.json")


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
    row, ended = published.chosen(history, "val")
    assert (row["epoch"], ended) == (epoch, stopped)
