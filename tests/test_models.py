import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import NAMES
from cifar_compare.roles import input_size, layers_of, logits_layer, multiply_adds, parts, pooling_layer


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


def test_preprocessing_leaves_cifar_images_untouched_bit_for_bit(models, pixels):
    seen = np.asarray(parts(models["custom_cnn"])[0](pixels))
    np.testing.assert_array_equal(seen, pixels.astype("float32"))


def test_preprocessing_crops_to_the_centre_and_antialiases(models):
    preprocessing = parts(models["custom_cnn"])[0]
    wide = np.zeros((1, 64, 100, 3), "float32")
    wide[:, :, 18:82] = 200.0  # the centre square; what lies outside it must not be seen
    np.testing.assert_allclose(preprocessing(wide), 200.0, atol=1e-3)
    stripes = np.tile(np.array([0.0, 255.0], "float32").repeat(1), 160)[None, None, :, None]
    stripes = np.broadcast_to(stripes, (1, 320, 320, 3))
    grey = np.asarray(preprocessing(stripes))[:, 2:-2, 2:-2]  # one-pixel stripes average out; plain sampling keeps them
    np.testing.assert_allclose(grey, 127.5, atol=2.0)


def test_preprocessing_stays_within_the_range_of_pixels(models):
    edge = np.zeros((1, 90, 90, 3), np.uint8)
    edge[:, :, 45:] = 255
    for model in models.values():
        seen = np.asarray(parts(model)[0](edge))
        assert seen.min() >= 0
        assert seen.max() <= 255


@pytest.mark.parametrize("size", [(8, 8), (30, 30), (31, 57), (200, 40), (1, 1)])
def test_any_height_and_width_is_taken(models, size):
    picture = np.full((1, *size, 3), 100, np.uint8)
    assert np.asarray(models["custom_cnn"](picture)).shape == (1, 10)


def test_model_is_network_behind_preprocessing(models, pixels):
    for model in models.values():
        preprocessing, network = parts(model)
        np.testing.assert_allclose(network(preprocessing(pixels), training=False), model(pixels), atol=1e-6)


def test_sizes(models):
    assert models["custom_cnn"].count_params() <= 5_000_000
    assert input_size(models["custom_cnn"]) == 32
    assert input_size(models["mobilenet_v2"]) == 128
    # MobileNetV2 has 300.8 M at 224 px with its top of 1.28 M; without it the count grows with the area.
    per_pixel = (300.8e6 - 1.28e6) / 224**2
    assert multiply_adds(models["mobilenet_v2"]) == pytest.approx(per_pixel * 128**2, rel=0.01)


@pytest.mark.parametrize("build", [cc.build_custom_cnn, lambda seed: cc.build_mobilenet_v2(None, seed=seed)])
def test_the_seed_decides_the_initial_weights(build):
    first, again, other = (build(seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_missing_weight_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5.*MOBILENET_V2_WEIGHTS"):
        cc.build_mobilenet_v2(weights="nowhere.h5")


@pytest.mark.parametrize("setting", ["channels_first", "mixed_float16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_models_and_files_carry_their_own_format_and_dtype(models, pixels, name, setting, keras_setting, tmp_path):
    expected = np.asarray(models[name](pixels))
    with keras_setting(setting):
        model = cc.build_custom_cnn() if name == "custom_cnn" else cc.build_mobilenet_v2(weights=None)
        np.testing.assert_allclose(model.predict_on_batch(pixels), expected, atol=1e-6)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras").predict_on_batch(pixels)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, expected, atol=1e-6)


def own(*last, size=32):
    """A network as people write them, with augmentation inside."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 255),
            layers.RandomFlip(),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            *last,
        ]
    )


DENSE = keras.layers.Dense


@pytest.mark.parametrize(
    ("last", "same"),
    [
        ([DENSE(10, activation="softmax")], True),
        ([DENSE(10), keras.layers.Softmax()], True),
        ([DENSE(10), keras.layers.Activation("softmax")], True),
        ([DENSE(10)], False),
        ([DENSE(3, use_bias=False)], False),
    ],
)
def test_a_network_of_ones_own_is_put_behind_preprocessing(last, same):
    network = own(*last)
    before = network.get_weights()
    pixels = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3)).astype("float32")
    answers = network.predict_on_batch(pixels)
    expected = answers if same else np.asarray(keras.ops.softmax(answers))
    model = cc.with_preprocessing(network, name="mine")
    assert (model.name, input_size(model)) == ("mine", 32)
    np.testing.assert_allclose(model.predict_on_batch(pixels), expected, atol=1e-6)
    assert logits_layer(parts(model)[1]).units == answers.shape[1]
    assert isinstance(pooling_layer(parts(model)[1]), keras.layers.GlobalAveragePooling2D)
    # It is a copy: what becomes of the model does not change the network.
    model.set_weights([weight * 0 for weight in model.get_weights()])
    for now, then in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(network.predict_on_batch(pixels), answers)


def test_a_network_of_any_size_needs_an_input_size():
    network = own(DENSE(10), size=None)
    with pytest.raises(ValueError, match="give `input_size`"):
        cc.with_preprocessing(network)
    assert input_size(cc.with_preprocessing(network, 64)) == 64
    with pytest.raises(ValueError, match=r"takes .*32, 32.* and input_size is 64"):
        cc.with_preprocessing(own(DENSE(10)), 64)


class Subclassed(keras.Model):
    def call(self, pixels):
        return pixels


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: None, "got NoneType"),
        (Subclassed, "got Subclassed"),
        (lambda: keras.Sequential([DENSE(10)]), "expected a built"),
        (lambda: keras.Sequential([keras.Input((3, 32, 32)), keras.layers.Flatten(), DENSE(10)]), "takes .*3, 32, 32"),
        (lambda: keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten(), DENSE(10)]), "takes .*32, 32, 1"),
        (lambda: keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(10, 3)]), "and gives"),
        (lambda: own(DENSE(10, activation="sigmoid")), "ends in .* with sigmoid"),
    ],
)
def test_what_cannot_be_put_behind_preprocessing_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        cc.with_preprocessing(network())


def test_roles_that_are_missing_are_named():
    layers = keras.layers
    flat = cc.with_preprocessing(keras.Sequential([keras.Input((32, 32, 3)), layers.Flatten(), DENSE(10)]))
    with pytest.raises(ValueError, match=r"has Flatten .* before its logits, expected global average or maximum"):
        pooling_layer(parts(flat)[1])
    pooled = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"ends in .*GlobalAveragePooling2D.*expected a linear Dense"):
        logits_layer(pooled)
    with pytest.raises(ValueError, match="with_preprocessing"):
        parts(own(DENSE(10)))


def test_layers_and_multiply_adds_of_models_inside_a_network():
    inner = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.GlobalMaxPooling2D(), DENSE(10)])
    model = cc.with_preprocessing(outer)
    assert len(list(layers_of(parts(model)[1], keras.layers.BatchNormalization))) == 1
    with pytest.raises(ValueError, match="cannot count"):
        multiply_adds(model)


def test_weights_that_cannot_be_downloaded_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("MOBILENET_V2_WEIGHTS", raising=False)

    def fails(*args, **options):
        raise Exception("URL fetch failure on https://example.org/weights.h5: None -- no network\n")

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", fails)
    with pytest.raises(OSError, match=r"no network.*MOBILENET_V2_WEIGHTS") as raised:
        cc.build_mobilenet_v2()
    assert "\n" not in str(raised.value)
