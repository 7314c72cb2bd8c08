import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import NAMES
from cifar_compare.models import multiply_adds, working_size


@pytest.fixture(scope="module")
def models():
    return {"custom_cnn": cc.build_custom_cnn(), "mobilenet_v2": cc.build_mobilenet_v2(weights=None)}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_calling_agrees_and_changes_nothing(models, pixels, name):
    model = models[name]
    before = model.get_weights()
    plain = np.asarray(model(pixels))
    assert plain.shape == (3, 10)
    assert plain.dtype == np.float32
    np.testing.assert_allclose(plain.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(model(pixels, training=False), plain, atol=1e-5)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), plain, atol=1e-5)
    np.testing.assert_allclose(model(pixels.astype("float32")), plain, atol=1e-6)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_loads_with_keras_alone(models, pixels, name, tmp_path):
    models[name].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    np.testing.assert_allclose(loaded(pixels), models[name](pixels), atol=1e-6)


def test_entry_leaves_cifar_images_untouched_bit_for_bit(models, pixels):
    seen = np.asarray(models["custom_cnn"].get_layer("entry")(pixels))
    np.testing.assert_array_equal(seen, pixels.astype("float32"))


def test_entry_crops_to_the_centre_and_antialiases(models):
    entry = models["custom_cnn"].get_layer("entry")
    wide = np.zeros((1, 64, 100, 3), "float32")
    wide[:, :, 18:82] = 200.0  # the centre square; what lies outside it must not be seen
    np.testing.assert_allclose(entry(wide), 200.0, atol=1e-3)
    stripes = np.tile(np.array([0.0, 255.0], "float32").repeat(1), 160)[None, None, :, None]
    stripes = np.broadcast_to(stripes, (1, 320, 320, 3))
    grey = np.asarray(entry(stripes))[:, 2:-2, 2:-2]  # one-pixel stripes average out; plain sampling keeps them
    np.testing.assert_allclose(grey, 127.5, atol=2.0)


def test_entry_stays_within_the_range_of_pixels(models):
    edge = np.zeros((1, 90, 90, 3), np.uint8)
    edge[:, :, 45:] = 255
    for model in models.values():
        seen = np.asarray(model.get_layer("entry")(edge))
        assert seen.min() >= 0
        assert seen.max() <= 255


@pytest.mark.parametrize("size", [(8, 8), (30, 30), (31, 57), (200, 40), (1, 1)])
def test_any_height_and_width_is_taken(models, size):
    picture = np.full((1, *size, 3), 100, np.uint8)
    assert np.asarray(models["custom_cnn"](picture)).shape == (1, 10)


def test_model_is_network_behind_entry(models, pixels):
    for model in models.values():
        halves = model.get_layer("network")(model.get_layer("entry")(pixels), training=False)
        np.testing.assert_allclose(halves, model(pixels), atol=1e-6)


def test_sizes(models):
    assert models["custom_cnn"].count_params() <= 5_000_000
    assert working_size(models["custom_cnn"]) == 32
    assert working_size(models["mobilenet_v2"]) == 128
    # MobileNetV2 has 300.8 M at 224 px with its top of 1.28 M; without it the count grows with the area.
    per_pixel = (300.8e6 - 1.28e6) / 224**2
    assert multiply_adds(models["mobilenet_v2"]) == pytest.approx(per_pixel * 128**2, rel=0.01)


def test_the_seed_decides_the_initial_weights():
    first, again, other = (cc.build_custom_cnn(seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_missing_weight_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5.*MOBILENET_V2_WEIGHTS"):
        cc.build_mobilenet_v2(weights="nowhere.h5")
