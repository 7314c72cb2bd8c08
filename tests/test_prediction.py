import logging
import shutil
import threading

import numpy as np
import pytest
from picture_models import blocks, save_tiny_models, tiny_network, write_card
from PIL import Image

import cifar_compare as cc
from cifar_compare.pictures import PictureError
from cifar_compare.prediction import evidence_map, predict
from cifar_compare.roles import parts

PIXELS = blocks(40, 56)


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def shipped(models_folder, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(models_folder))


@pytest.fixture(scope="module")
def model(models_folder):
    import keras

    return keras.saving.load_model(models_folder / "custom_cnn.keras")


def saved(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return path


def test_however_a_picture_is_given_the_answer_is_the_models_own(tmp_path, model):
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    expected = np.asarray(model(PIXELS[None]))[0]
    kinds = {
        "path": path,
        "text": str(path),
        "array": PIXELS,
        "float": PIXELS.astype(np.float64),
        "stack": PIXELS[None],
        "image": Image.open(path),
        "folder": tmp_path,
        "list": [path],
        "bytes": path.read_bytes(),
        "array of paths": np.array([str(path)]),
    }
    for kind, given in kinds.items():
        (answer,) = predict(model, given)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5, err_msg=kind)
        (named,) = predict("custom_cnn", given)
        np.testing.assert_array_equal(named.probabilities, answer.probabilities, err_msg=kind)
    assert [a.picture for a in predict(model, [PIXELS, str(path), PIXELS])] == [
        "picture 0",
        str(path),
        "picture 1",
    ]


def test_mixed_sizes_keep_their_order(model):
    sizes = [(32, 32), (70, 40), (1, 9), (32, 32), (200, 300), (70, 40), (33, 32)] * 3
    given = [blocks(*size, seed) for seed, size in enumerate(sizes)]
    answers = predict(model, given, top=10, batch_size=8)
    assert len(answers) == len(given)
    for pixels, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(answer.probabilities, np.asarray(model(pixels[None]))[0], atol=1e-5)
        shown = [probability for _, probability in answer.top]
        assert shown == sorted(answer.probabilities.tolist(), reverse=True)
        assert answer.top[0] == (answer.label, answer.probability)


def test_new_sizes_are_not_traced_anew(model, caplog):
    preprocessing, _ = parts(model)
    with caplog.at_level(logging.WARNING):
        predict(model, [blocks(40 + n, 90 - n) for n in range(20)], batch_size=4)
    assert preprocessing.predict_function.experimental_get_tracing_count() <= 6  # two for each type of pixels and batch
    assert "retracing" not in caplog.text


def test_bad_pictures_raise_or_are_reported(tmp_path, model):
    good = saved(tmp_path, "good.png", Image.fromarray(PIXELS))
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "notes.txt").write_text("not tried")
    (tmp_path / ".hidden.png").write_text("not tried")
    with pytest.raises(PictureError, match=r"bad\.png: is not a picture"):
        predict(model, tmp_path)
    bad = []
    answers = predict(model, [tmp_path, None, tmp_path / "missing.png"], on_error=bad.append)
    assert [answer.picture for answer in answers] == [str(good)]
    assert ["bad.png" in str(bad[0]), "NoneType" in str(bad[1]), "missing.png" in str(bad[2])] == [True] * 3
    (tmp_path / "none").mkdir()
    with pytest.raises(PictureError, match="folder without pictures"):
        predict(model, tmp_path / "none")


def test_wrong_calls_say_what_was_expected(model):
    with pytest.raises(ValueError, match="top is 0"):
        predict(model, PIXELS, top=0)
    with pytest.raises(ValueError, match="top is 11, expected 1 to 10, the number of classes of custom_cnn"):
        predict(model, PIXELS, top=11)
    with pytest.raises(ValueError, match=r"batch_size is 2\.5"):
        predict(model, PIXELS, batch_size=2.5)
    with pytest.raises(ValueError, match=r"is not a preprocessing and a network.*with_preprocessing"):
        predict(tiny_network(), PIXELS)
    with pytest.raises(ValueError, match=r"model is a NoneType, expected the name"):
        predict(None, PIXELS)


def test_out_of_distribution_follows_the_card(models_folder, tmp_path, monkeypatch, model):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path))
    card = (models_folder / "custom_cnn.json").read_text()
    shutil.copy(models_folder / "custom_cnn.keras", tmp_path)
    for threshold, expected in ((0.0, False), (1.1, True)):
        (tmp_path / "custom_cnn.json").write_text(card.replace('"threshold": 0.5', f'"threshold": {threshold}'))
        assert predict("custom_cnn", PIXELS)[0].out_of_distribution is expected
    assert predict(model, PIXELS)[0].out_of_distribution is None


def test_a_model_replaced_on_disk_is_loaded_anew(models_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path))
    answers = {}
    for name in ("custom_cnn", "mobilenet_v2"):
        shutil.copy(models_folder / f"{name}.keras", tmp_path)
        shutil.copy(models_folder / f"{name}.json", tmp_path / "custom_cnn.json")
        answers[name] = predict("custom_cnn", PIXELS)[0].probabilities
    assert not np.allclose(answers["custom_cnn"], answers["mobilenet_v2"])


@pytest.fixture(scope="module", params=["custom_cnn", "mobilenet_v2"])
def untrained(request):
    """One of the real networks with random weights, and what it makes of PIXELS: the map's features, the logits."""
    import keras

    build = {"custom_cnn": cc.build_custom_cnn, "mobilenet_v2": lambda: cc.build_mobilenet_v2(weights=None)}
    model = build[request.param]()
    _, network = parts(model)
    weights = network.get_layer("logits").get_weights()
    weights[1:] = [np.linspace(-1, 1, 10) for _ in weights[1:]]  # a bias, where there is one, starts as 0
    network.get_layer("logits").set_weights(weights)
    inside = keras.Model(network.inputs, [network.get_layer("pool").input, network.get_layer("logits").output])
    features, logits = inside(parts(model)[0](PIXELS[None]))
    return model, weights, np.asarray(features)[0], np.asarray(logits)[0]


def test_evidence_adds_up_to_the_logit_less_its_bias(untrained):
    model, (_, *bias), features, logits = untrained
    for number, label in enumerate(cc.CLASSES):
        added = evidence_map(model, PIXELS, label)
        assert added.shape == features.shape[:2]
        assert added.dtype == np.float32
        assert added.sum() == pytest.approx(logits[number] - (bias[0][number] if bias else 0), rel=1e-4, abs=1e-5)


def test_evidence_lies_where_the_features_are(untrained):
    model, (kernel, *_), features, _ = untrained
    if model.name == "mobilenet_v2":
        expected = features @ kernel / features[..., 0].size
    else:
        at = features.reshape(-1, features.shape[-1]).argmax(axis=0)
        expected = np.zeros((features[..., 0].size, 10))
        np.add.at(expected, at, features.max(axis=(0, 1))[:, None] * kernel / 9)
        expected = expected.reshape(*features.shape[:2], 10)
    np.testing.assert_allclose(evidence_map(model, PIXELS, "dog"), expected[..., 5], rtol=1e-3, atol=1e-5)


def test_equal_maxima_share_the_evidence():
    model = cc.build_custom_cnn()
    _, network = parts(model)
    network.get_layer("conv3b").kernel.assign(np.zeros(network.get_layer("conv3b").kernel.shape))
    beta = network.get_layer("norm3b").beta
    beta.assign(np.linspace(0.5, 2, beta.shape[0]))  # the same features in every place
    added = evidence_map(model, PIXELS, "cat")
    assert added.size > 1
    np.testing.assert_allclose(added, added.mean(), rtol=1e-4)
    assert abs(added.sum()) > 1e-3


def test_evidence_for_the_answer_of_any_single_picture(tmp_path, untrained):
    model, *_ = untrained
    (answer,) = predict(model, PIXELS)
    expected = evidence_map(model, PIXELS, answer.label)
    np.testing.assert_array_equal(evidence_map(model, PIXELS), expected)
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(evidence_map(model, path), expected)
    with pytest.raises(ValueError, match="label is 'tiger', expected None or one of airplane, automobile"):
        evidence_map(model, PIXELS, "tiger")
    with pytest.raises(PictureError, match="No such file"):
        evidence_map(model, tmp_path / "missing.png")


def test_evidence_needs_a_global_pooling():
    flat = cc.with_preprocessing(tiny_network(pooling=False))
    with pytest.raises(ValueError, match=r"has Flatten .* before its logits, expected global average or maximum"):
        evidence_map(flat, PIXELS)


@pytest.fixture
def own(tmp_path):
    """A model of somebody's own, of two classes, and the file it is saved to."""
    model, path = cc.with_preprocessing(tiny_network(classes=2)), tmp_path / "own.keras"
    model.save(path)
    return model, path


@pytest.mark.filterwarnings("ignore:.*is unverified")
def test_a_model_of_ones_own_predicts(own):
    model, path = own
    expected = np.asarray(model(PIXELS[None]))[0]
    for given in (model, path, str(path)):
        (answer,) = predict(given, PIXELS)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)
        assert answer.classes == ("class 0", "class 1")
        assert len(answer.top) == 2
        assert answer.out_of_distribution is None
        assert evidence_map(given, PIXELS).shape == (14, 14)
    (answer,) = predict(model, PIXELS, classes=("cat", "dog"))
    assert (answer.label, answer.classes) == (("cat", "dog")[expected.argmax()], ("cat", "dog"))
    assert evidence_map(model, PIXELS, "dog", ("cat", "dog")).shape == (14, 14)
    for wrong in (("cat",), ("cat", "cat"), cc.CLASSES):
        with pytest.raises(ValueError, match="expected 2 different names"):
            predict(model, PIXELS, classes=wrong)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_classes_of_a_card_count(own):
    _, path = own
    write_card(path, classes=["cat", "dog"], out_of_distribution={"threshold": 1.1})
    (answer,) = predict(path, PIXELS)
    assert answer.classes == ("cat", "dog")
    assert answer.out_of_distribution is True
    assert predict(path, PIXELS, classes=["a", "b"])[0].classes == ("a", "b")


@pytest.mark.filterwarnings("ignore:.*is unverified")
def test_a_file_of_ones_own_that_was_replaced_is_loaded_anew(own, tmp_path, monkeypatch):
    _, path = own
    monkeypatch.chdir(tmp_path)
    before = predict("own.keras", PIXELS)[0].probabilities
    cc.with_preprocessing(tiny_network(seed=1, classes=2)).save(path)
    assert not np.allclose(predict("own.keras", PIXELS)[0].probabilities, before)


def test_a_diverged_model_is_named_for_what_it_is():
    model = cc.with_preprocessing(tiny_network(), name="diverged")
    model.set_weights([np.full(w.shape, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match=r"of diverged holds NaN .*training has diverged"):
        predict(model, PIXELS)
    with pytest.raises(ValueError, match=r"of diverged hold NaN .*training has diverged"):
        evidence_map(model, PIXELS)


@pytest.mark.parametrize("setting", ["channels_first", "mixed_float16", "float16"])
def test_no_setting_of_keras_changes_an_answer(setting, keras_setting, monkeypatch):
    from keras import config

    from cifar_compare import prediction

    monkeypatch.delenv("CIFAR_COMPARE_MODELS")
    expected = predict("custom_cnn", [PIXELS, blocks(32, 32)])
    evidence = evidence_map("custom_cnn", PIXELS, "cat")
    prediction._load.cache_clear()
    with keras_setting(setting):
        kept = config.image_data_format(), config.floatx(), config.dtype_policy().name
        answers = predict("custom_cnn", [PIXELS, blocks(32, 32)])
        added = evidence_map("custom_cnn", PIXELS, "cat")
        assert (config.image_data_format(), config.floatx(), config.dtype_policy().name) == kept
    prediction._load.cache_clear()
    for answer, other in zip(answers, expected, strict=True):
        assert answer.probabilities.dtype == np.float32
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-6)
    np.testing.assert_allclose(added, evidence, atol=1e-5)


def test_threads_leave_the_settings_of_keras_as_they_were(keras_setting):
    from keras import config

    from cifar_compare.system import keras_defaults

    inside, seen = threading.Barrier(2), []

    def first():
        with keras_defaults():
            inside.wait(60)

    def second():
        with keras_defaults():
            inside.wait(60)
            threads[0].join(60)
            seen.append(config.image_data_format())

    with keras_setting("channels_first"):
        threads = [threading.Thread(target=each) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert seen == ["channels_last"]
        assert config.image_data_format() == "channels_first"
