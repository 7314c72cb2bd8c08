"""A network of one's own, on some of the classes, goes through every helper."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

import cifar_compare as cc

CLASSES = ("cat", "dog", "ship")


def subset(split):
    """The images of three classes, their labels numbered anew."""
    numbers = [cc.CLASSES.index(name) for name in CLASSES]
    chosen = np.isin(split.labels, numbers)
    return cc.Split(split.images[chosen], np.searchsorted(numbers, split.labels[chosen]), CLASSES)


@pytest.fixture(scope="module")
def data():
    made = cc.make_toy_data(train=300, validation=100, test=100)
    return cc.Data(*(subset(getattr(made, name)) for name in ("train", "validation", "test")))


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(momentum=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    recipe = cc.Recipe(
        name="own",
        stages=((20, 32),),
        batch_size=30,
        learning_rate=0.02,
        warmup=0.1,
        optimizer=keras.optimizers.Adam,
        augmentation=functools.partial(cc.augment, shift=2),
    )
    model = cc.with_preprocessing(network, name="own")
    folder = tmp_path_factory.mktemp("own")
    history = cc.train(model, data, recipe, folder)
    assert history[-1]["val_accuracy"] > 0.8
    again = cc.with_preprocessing(network, name="own")  # its layers have other names in this session
    assert cc.train(again, data, recipe, folder) == history
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    return model


def test_it_is_measured_and_calibrated(model, data):
    before = cc.evaluate(model, data.test)
    assert (before.classes, before.confusion.shape) == (CLASSES, (3, 3))
    assert before.accuracy > 0.8
    assert cc.calibrate(model, data.validation) > 0
    after = cc.evaluate(model, data.test)
    np.testing.assert_array_equal(after.predictions, before.predictions)
    cc.plots.confusion(after)


def test_it_is_saved_and_asked_by_its_path(model, data, tmp_path):
    path = tmp_path / "own.keras"
    model.save(path)
    picture = data.test.images[0]
    with pytest.warns(UserWarning, match=r"own\.keras is unverified: there is no card own\.json beside it"):
        (answer,) = cc.predict(str(path), picture, classes=CLASSES)
    expected = model.predict_on_batch(picture[None])[0]
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)
    assert answer.label == CLASSES[expected.argmax()]
    assert cc.predict(str(path), picture)[0].classes == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(cc.load_model(path).get_weights()[0], model.get_weights()[0])
    cc.export(model, tmp_path / "own.tflite")
    assert (tmp_path / "own.tflite").stat().st_size > 1000


def test_its_evidence_adds_up_to_its_logits(model, data):
    maps = [cc.evidence_map(model, data.test.images[0], label, CLASSES).sum() for label in CLASSES]
    *_, logits = (layer for layer in model.layers[-1].layers if isinstance(layer, keras.layers.Dense))
    expected = np.log(model.predict_on_batch(data.test.images[:1])[0])
    found = np.array(maps) + logits.bias.numpy()
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-3)


def test_it_is_studied_beside_another(model, data):
    conditions = [dataclasses.replace(c, n=9) for c in cc.study.DELIVERIES if c.name in ("native", "224-nearest")]
    rows = list(cc.study.measure({"own": model, "twin": model}, data.test, conditions))
    assert {row["route"] for row in rows} == set(cc.study.ROUTES[:3])
    assert all(row["minus_first"] == 0 for row in rows if row["model"] == "twin")
    trucks = [c for c in cc.study.DELIVERIES if c.only == "truck"]
    with pytest.raises(ValueError, match="truck"):
        cc.study.measure(model, data.test, trucks)
