"""Recipes, what they are made of, and what is refused of them."""

import dataclasses
import functools
import itertools
import json
import types

import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare import augmentation
from cifar_compare.checkpoints import changes
from cifar_compare.optimizers import schedule
from cifar_compare.recipes import describe
from cifar_compare.training import batches

RECIPE = cc.RECIPES["custom_cnn"]
LABELS = np.eye(10, dtype="float32")
TOY = cc.make_toy_data().train


def changed(images, **settings):
    labels = np.zeros((len(images), 10), "float32")
    return cc.augment(images, labels, np.random.default_rng(0), **settings)[0]


def test_recipe_is_read_by_stage():
    recipe = dataclasses.replace(RECIPE, stages=[[2, 24], [3, 32]])
    assert recipe.epochs == 5
    assert [recipe.input_size(epoch) for epoch in range(5)] == [24, 24, 32, 32, 32]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", ()),
        ("stages", ((0, 32),)),
        ("stages", (3, 32)),
        ("stages", ((3, 32.5),)),
        ("batch_size", 0),
        ("batch_size", 50.0),
        ("learning_rate", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("warmup", 1),
        ("optimizer", "sgd"),
        ("augmentation", "cutmix"),
        ("averaging", 3),
        ("averaging", (0, 0.1)),
        ("label_smoothing", 1.0),
        ("enlargements", ()),
        ("enlargements", ("bicubic", "sharp")),
        ("head_epochs", -1),
        ("seed", 0.5),
        ("flip", "no"),
        ("mixed_precision", "no"),
        ("enlargements", 3),
        ("enlargements", "bicubic"),
        ("learning_rate", True),
        ("batch_size", "50\n" * 1000),
    ],
)
def test_a_field_that_makes_no_sense_is_named(field, value):
    with pytest.raises(ValueError, match=f"recipe's {field} is .*expected"):
        dataclasses.replace(RECIPE, **{field: value})
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        dataclasses.replace(RECIPE, **{field: value})
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_are_numbers():
    stages = ((np.int64(3), np.int32(32)),)
    recipe = dataclasses.replace(
        RECIPE, seed=np.int64(3), stages=stages, learning_rate=np.float32(0.5), flip=np.bool_(True)
    )
    assert recipe == dataclasses.replace(RECIPE, seed=3, stages=((3, 32),), learning_rate=0.5)
    assert json.loads(json.dumps(describe(recipe)))["seed"] == 3


@pytest.mark.parametrize("settings", [{"cutout": 40}, {"cutout": -1}, {"shift": 32}, {"shift": -2}, {"blur": -0.5}])
def test_an_augmentation_beyond_the_image_is_refused(settings):
    with pytest.raises(ValueError, match="for images of 32 px, expected"):
        changed(np.zeros((2, 32, 32, 3), np.uint8), **settings)


def test_augmentation_leaves_what_it_was_given():
    images, labels = TOY.images.copy(), LABELS[TOY.labels]
    made, same = cc.augment(images, labels, np.random.default_rng(0), shift=4, blur=1.0, cutout=8)
    np.testing.assert_array_equal(images, TOY.images)
    assert not np.array_equal(made, images)
    assert same is labels


def test_cutout_greys_one_square_in_each_image():
    grey = changed(np.zeros((50, 32, 32, 3), np.uint8), cutout=8)[..., 0] > 0
    assert (grey.sum(axis=(1, 2)) == 64).all()
    assert (grey.any(axis=1).sum(axis=1) == 8).all()
    assert len({row.tobytes() for row in grey}) > 40
    assert changed(np.zeros((2, 32, 32, 3), np.uint8), cutout=32).all()


def test_shift_translates_by_at_most_so_many_pixels():
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None, None], (200, 32, 32, 3))
    rows = changed(ramp, shift=2)[:, 2:-2, 0, 0].astype(int)
    offsets = rows - np.arange(2, 30)
    assert (offsets == offsets[:, :1]).all()
    assert set(offsets[:, 0]) == {-2, -1, 0, 1, 2}


def test_blur_smooths_each_image_by_a_width_of_its_own():
    dots = np.zeros((50, 9, 9, 3), np.uint8)
    dots[:, 4, 4, 0] = 200
    blurred = changed(dots, blur=1.0)
    assert blurred.dtype == np.uint8
    assert not blurred[..., 1:].any()  # channels keep apart
    peaks = blurred[:, 4, 4, 0]
    assert len(set(peaks)) > 20
    assert 200 / (2 * np.pi) * 0.9 <= peaks.min() <= 60  # of a Gaussian of 1 px, and near it
    assert peaks.max() >= 195
    assert (blurred.sum(axis=(1, 2, 3)) >= 180).all()
    assert changed(TOY.images, blur=1.0).mean() == pytest.approx(TOY.images.mean(), abs=1.5)


def test_the_learning_rate_climbs_and_falls_to_zero():
    recipe = dataclasses.replace(RECIPE, stages=((10, 32),), learning_rate=0.8, warmup=0.2, averaging=None)
    rate = [float(value) for value in map(schedule(recipe, 1000), range(1001))]
    assert rate[0] == 0
    assert rate[100] == pytest.approx(0.4)  # half way up
    assert max(rate) == rate[200] == pytest.approx(0.8)
    assert rate[600] == pytest.approx(0.4)  # half way down the cosine
    assert rate[1000] == pytest.approx(0, abs=1e-6)


def test_the_learning_rate_is_constant_while_weights_are_averaged():
    recipe = dataclasses.replace(RECIPE, stages=((10, 32),), learning_rate=0.8, warmup=0.25, averaging=(2, 0.1))
    rate = [float(value) for value in map(schedule(recipe, 1000), range(1001))]
    assert max(rate) == rate[200] == pytest.approx(0.8)
    assert rate[500] == pytest.approx((0.8 + 0.08) / 2)  # half way down
    assert all(a >= b for a, b in itertools.pairwise(rate[200:]))
    assert rate[800:] == pytest.approx([0.08] * 201)


def test_biases_and_shifts_learn_faster_by_the_factor():
    moved = []
    for factor in (1.0, 10.0):
        layer = keras.layers.Dense(3, kernel_initializer="ones")
        layer.build((None, 2))
        optimizer = cc.SGD(0.1, factor, momentum=0.9)
        optimizer.build(layer.trainable_variables)
        optimizer.apply([keras.ops.ones_like(v) for v in layer.trainable_variables])
        moved.append((1 - layer.kernel.numpy(), -layer.bias.numpy()))
    np.testing.assert_allclose(moved[0][0], moved[1][0], rtol=1e-6)
    np.testing.assert_allclose(10 * moved[0][1], moved[1][1], rtol=1e-6)


def made_here(images, labels, random):
    return images, labels


def double(images, labels, random, factor=2):
    return images * factor, labels


def test_a_description_is_the_same_for_the_same_recipe_and_differs_for_another():
    ours = describe(RECIPE)
    assert ours["optimizer"] == {
        "function": "cifar_compare.SGD",
        "momentum": 0.85,
        "weight_decay": 0.009,
        "bias_factor": 64.0,
    }
    assert ours == describe(dataclasses.replace(RECIPE))
    variants = [
        made_here,
        double,
        functools.partial(double, factor=3),
        functools.partial(double, factor=4),
        lambda images, labels, random: (images + 1, labels),
        functools.partial(cc.augment, shift=3),
        None,
    ]
    told = [str(describe(dataclasses.replace(RECIPE, augmentation=each))) for each in variants]
    assert len(set(told)) == len(told)


def test_what_a_function_of_yours_holds_is_a_part_of_its_description():
    def brighter(by):
        return lambda images, labels, random: (images + by, labels)

    assert describe(brighter(1)) == describe(brighter(1))
    assert describe(brighter(1)) != describe(brighter(2))
    with pytest.raises(ValueError, match="cannot be told from others"):
        describe(brighter(object()))


STRENGTH = 3


def helper(images):
    return images + STRENGTH


def by_a_global(images, labels, random):
    return np.clip(helper(images), 0, 255), labels


@dataclasses.dataclass
class Brighter:
    by: int

    def __call__(self, images, labels, random):
        return images + self.by, labels

    def change(self, images, labels, random):
        return images + self.by + STRENGTH, labels


class Plain:
    def change(self, images, labels, random):
        return images, labels


def with_default(images, labels, random, by=STRENGTH, *, more=STRENGTH):
    return images + by + more, labels


def by_a_module(images, labels, random):
    return images + settings.STRENGTH, labels  # noqa: F821


def itself(images, labels, random):
    return itself(images, labels, random) if random is None else (images, labels)


@pytest.mark.parametrize("function", [by_a_global, Brighter(1).change, lambda x, y, r: (helper(x), y)])
def test_a_global_that_a_function_reads_belongs_to_its_description(function, monkeypatch):
    before = describe(function)
    assert describe(function) == before
    assert json.loads(json.dumps(before)) == before
    monkeypatch.setitem(globals(), "STRENGTH", 5)
    assert describe(function) != before
    assert any("STRENGTH was 3, is 5" in word for word in changes(before, describe(function)))


def test_default_arguments_and_the_object_of_a_method_belong_to_the_description(monkeypatch):
    before = describe(with_default)
    monkeypatch.setattr(with_default, "__defaults__", (5,))
    assert "was 3, is 5" in str(changes(before, describe(with_default)))
    monkeypatch.undo()
    monkeypatch.setattr(with_default, "__kwdefaults__", {"more": 5})
    assert "more was 3, is 5" in str(changes(before, describe(with_default)))
    assert describe(Brighter(1).change) == describe(Brighter(1).change) != describe(Brighter(2).change)
    assert describe(Brighter(1)) != describe(Brighter(2))
    one, other = lambda x, y, r: (x * 2, y), lambda x, y, r: (x * 3, y)  # of one line of source
    assert describe(one) != describe(other)
    assert describe(itself) == describe(itself)
    with pytest.raises(ValueError, match=r"an object of Plain in a recipe cannot be told from others.*use"):
        describe(Plain().change)


def test_a_value_of_a_module_belongs_to_the_description(monkeypatch):
    settings = types.ModuleType("settings")
    settings.STRENGTH = 3
    monkeypatch.setitem(globals(), "settings", settings)

    before = describe(by_a_module)
    settings.STRENGTH = 5
    assert "STRENGTH was 3, is 5" in str(changes(before, describe(by_a_module)))


@pytest.mark.parametrize("settings", [{"shift": 2.5}, {"cutout": 2.5}, {"shift": "2"}, {"shift": True}])
def test_settings_that_are_no_whole_numbers_are_refused(settings):
    with pytest.raises(ValueError, match="for images of 32 px, expected at least 0, whole"):
        changed(np.zeros((2, 32, 32, 3), np.uint8), **settings)


def test_half_precision_is_blurred_as_single_is():
    half, single = (changed(TOY.images[:5].astype(dtype), blur=1.0) for dtype in ("float16", "float32"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, single, atol=0.1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("fault", augmentation._FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_changes_an_image_and_nothing_else(fault, dtype, monkeypatch):
    monkeypatch.setattr(augmentation, "_FAULTS", (fault,))
    images = TOY.images[:20].astype(dtype)
    made = changed(images, corrupt=1.0)
    assert made.dtype == images.dtype
    assert made.shape == images.shape
    assert made.min() >= 0
    assert made.max() <= 255
    assert (made != images).any(axis=(1, 2, 3)).mean() >= 0.8
    np.testing.assert_array_equal(made, changed(images, corrupt=1.0))
    np.testing.assert_array_equal(images, TOY.images[:20])


def test_the_share_of_corrupted_images_is_the_one_asked_for():
    faulty = (changed(TOY.images, corrupt=0.5) != TOY.images).any(axis=(1, 2, 3)).mean()
    assert 0.4 <= faulty <= 0.55  # of 400; a fault may leave an image as it is


def test_cutmix_gives_the_label_the_share_of_the_box():
    count, random = 12, np.random.default_rng(0)
    images = np.broadcast_to(20 * np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3))
    boxes, mixed = set(), 0
    for _ in range(40):
        made, labels = cc.augment(images, np.eye(count, dtype="float32"), random, cutmix=0.5)
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
        for image, label in zip(made, labels, strict=True):
            shares = np.bincount(image[..., 0].ravel() // 20, minlength=count) / 1024
            np.testing.assert_allclose(label, shares, atol=1e-6)
        mixed += bool((made != images).any())
        boxes |= {len(set(map(bytes, (made != images)[..., 0])))}
    assert 10 <= mixed <= 30
    assert max(boxes) > 3  # several boxes in a batch


def test_cutmix_takes_labels_as_training_makes_them():
    recipe = dataclasses.replace(RECIPE, augmentation=functools.partial(cc.augment, cutmix=1.0))
    images, labels = next(batches(TOY, recipe, 0))
    assert (images.dtype, labels.dtype) == ("float32", "float32")
    assert ((labels > 0) & (labels < 1)).any()
    _, doubles = cc.augment(TOY.images, np.eye(10)[TOY.labels], np.random.default_rng(0), cutmix=1.0)
    assert doubles.dtype == "float64"
