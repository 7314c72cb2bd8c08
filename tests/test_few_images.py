"""Training with few images: the training sets, the rule for the recipes, and the table of what was measured."""

import dataclasses
import math

import data_efficiency
import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare import few_images
from cifar_compare.artefacts import NAMES
from cifar_compare.roles import logits_layer, parts

TOY = cc.make_toy_data()
ROWS = few_images.read(data_efficiency.TABLE)
TRAINED = [arm for arm in few_images.ARMS if arm != "mobilenet_v2_head"]


def as_set(split):
    return {image.tobytes() for image in split.images}


def sorted_by_class():
    return few_images.part_of(TOY.train, np.argsort(TOY.train.labels))


def test_training_sets_of_a_draw_are_nested_and_stratified():
    small, large = (few_images.training_set(TOY.train, size, draw=1) for size in (5, 20))
    assert np.bincount(small.labels).tolist() == [5] * 10
    assert np.bincount(large.labels).tolist() == [20] * 10
    assert as_set(small) < as_set(large)


def test_draws_differ_and_do_not_depend_on_the_order_of_the_images():
    backwards = few_images.part_of(TOY.train, slice(None, None, -1))
    first, second = (few_images.training_set(TOY.train, 5, draw) for draw in (0, 1))
    assert as_set(first) != as_set(second)
    np.testing.assert_array_equal(few_images.training_set(backwards, 5).images, first.images)


def test_the_held_out_fifth_is_balanced_and_apart():
    given = few_images.training_set(TOY.train, 20)
    part, rest = few_images.held_out(given)
    assert (len(part), len(rest)) == (160, 40)
    assert np.bincount(rest.labels).tolist() == [4] * 10
    assert not as_set(part) & as_set(rest)


@pytest.mark.parametrize("arm", TRAINED)
def test_ten_times_the_images_are_seen_about_a_third_as_often(arm):
    few, many = (few_images.recipe(arm, n, steps=20) for n in (1000, 10_000))
    assert few.epochs / many.epochs == pytest.approx(10**0.5, rel=0.05)
    assert few.stages[-1][1] == many.stages[-1][1] == (32 if arm == "custom_cnn" else 128)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few_images.training_set(TOY.train, 50), "50 images a class of a split that has 40"),
        (lambda: few_images.training_set(TOY.train, 0), "size is 0"),
        (lambda: few_images.training_set(TOY.train, 5, draw=-1), "draw is -1"),
        (lambda: few_images.recipe("mobilenet_v2_head", 100), "'mobilenet_v2_head', expected one of mobilenet_v2, "),
        (lambda: few_images.recipe("custom_cnn", 0), "n is 0"),
        (lambda: few_images.recipe("custom_cnn", 100, steps=0), "steps is 0"),
        (lambda: few_images.new_model("resnet"), "'resnet', expected one of mobilenet_v2, "),
        (lambda: few_images.training_set(TOY.train.images, 5), "expected a Split"),
        (lambda: few_images.fit_last_layer(cc.build_custom_cnn(widths=(8, 8, 8)), sorted_by_class()), "in turn"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_from_scratch_the_batch_normalisation_learns():
    network = parts(few_images.new_model("mobilenet_v2_scratch"))[1]
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert all(layer.trainable for layer in norms)


@pytest.mark.parametrize("bias", [True, False])
def test_the_last_layer_is_fitted_and_nothing_else_moves(bias):
    keras.utils.set_random_seed(0)
    layers = (keras.layers.Conv2D(16, 3, 2), keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D())
    model = cc.with_preprocessing(
        keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(10, use_bias=bias)])
    )
    before = [weight.numpy() for weight in model.weights]
    few_images.fit_last_layer(model, TOY.train)
    last = logits_layer(parts(model)[1])
    moved = [weight.path for weight, old in zip(model.weights, before, strict=True) if (weight.numpy() != old).any()]
    assert moved == [weight.path for weight in last.weights]
    assert cc.evaluate(model, TOY.train).accuracy > 0.9
    assert cc.evaluate(model, TOY.test).accuracy > 0.8


@pytest.mark.skipif(not ROWS, reason="results/data_efficiency.csv is not there yet")
def test_the_table_is_of_cells_that_exist_each_once():
    keys = [(row["images_a_class"], row["arm"], row["draw"]) for row in ROWS]
    assert len(set(keys)) == len(keys)
    released = {(max(data_efficiency.SIZES), name, 0) for name in NAMES}
    assert released <= set(keys) <= released | set(data_efficiency.cells())
    for row, key in zip(ROWS, keys, strict=True):
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["seconds"] > 0
        n = 10 * row["images_a_class"]
        if key in released:
            assert row == pytest.approx(data_efficiency.released(row["arm"]))
        elif row["arm"] != "mobilenet_v2_head":
            recipe = few_images.recipe(row["arm"], n, row["draw"])
            assert row["steps"] == recipe.epochs * math.ceil(n / recipe.batch_size)


def made(arm, *accuracies):
    """Rows of two draws each at 10, 100 and so on images a class."""
    return [
        {"images_a_class": 10 ** (i + 1), "arm": arm, "draw": draw, "steps": 1, "accuracy": share + 0.02 * draw}
        | {"low": share - 0.1, "high": share + 0.1, "seconds": 10.0 * (i + 1), "hardware": "none"}
        for i, share in enumerate(accuracies)
        for draw in (0, 1)
    ]


def test_the_images_needed_are_read_off_between_the_means():
    rows = made("custom_cnn", 0.29, 0.49, 0.39)
    assert few_images.images_needed(rows, "custom_cnn", 0.4) == pytest.approx(10**1.5)
    assert few_images.images_needed(rows, "custom_cnn", 0.5) == pytest.approx(100)
    assert few_images.images_needed(rows, "custom_cnn", 0.51) == math.inf
    assert math.isnan(few_images.images_needed(rows, "custom_cnn", 0.1))
    with pytest.raises(ValueError, match="no row is about 'mobilenet_v2', expected one of custom_cnn"):
        few_images.images_needed(rows, "mobilenet_v2", 0.4)


@pytest.mark.parametrize("by", ["images_a_class", "seconds"])
def test_the_plot_has_a_line_for_each_arm_through_the_means(by):
    rows = made("mobilenet_v2", 0.5, 0.8) + made("custom_cnn", 0.2, 0.4)
    (ax,) = few_images.plot(rows, by).axes
    found = {each.get_label(): each.lines[0].get_xydata().tolist() for each in ax.containers}
    x = [10, 100] if by == "images_a_class" else [10, 20]
    assert {label: [round(y) for _, y in points] for label, points in found.items()} == {
        few_images.ARMS["custom_cnn"]: [21, 41],
        few_images.ARMS["mobilenet_v2"]: [51, 81],
    }
    assert all([at for at, _ in points] == x for points in found.values())


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "table.csv"
    assert few_images.read(path) == []
    path.write_text("arm,accuracy\ncustom_cnn,0.5\n")
    with pytest.raises(ValueError, match=r"table.csv is damaged .*expected the columns images_a_class, arm"):
        few_images.read(path)


def test_a_plot_against_something_else_is_refused():
    with pytest.raises(ValueError, match="by is 'steps', expected images_a_class or seconds"):
        few_images.plot(made("custom_cnn", 0.5), by="steps")


def test_a_cell_is_trained_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(few_images, "recipe", tiny)
    row = data_efficiency.measure(5, "custom_cnn", 0, TOY)
    assert (row["images_a_class"], row["arm"], row["draw"], row["steps"]) == (5, "custom_cnn", 0, 1)
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    data_efficiency.save(tmp_path / "table.csv", [row])
    assert few_images.read(tmp_path / "table.csv") == [row]


def test_how_long_a_cell_will_take_is_told_from_those_that_are_there():
    rows = made("custom_cnn", 0.5)  # 10 s with 10 images a class
    assert data_efficiency.expected_seconds(rows, "custom_cnn", 1000) == pytest.approx(100)
    assert math.isnan(data_efficiency.expected_seconds(rows, "mobilenet_v2", 1000))


def test_every_draw_is_whole_before_the_next_begins():
    order = [draw for _, _, draw in data_efficiency.cells()]
    assert order == sorted(order)
    assert len(set(data_efficiency.cells())) == len(order) == 131


def test_calls_run_side_by_side_and_come_back():
    assert sorted(data_efficiency.side_by_side(math.isqrt, [(4,), (9,), (16,)])) == [2, 3, 4]


def tiny(arm, n, draw, steps):
    recipe = cc.RECIPES["custom_cnn"]
    return dataclasses.replace(recipe, stages=((1, 32),), batch_size=100, averaging=None, seed=draw)
