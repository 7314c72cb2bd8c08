"""The training sets of the data-efficiency table, and the table itself."""

import dataclasses
import math

import data_efficiency
import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.roles import parts

TOY = cc.make_toy_data()
ROWS = data_efficiency.read(data_efficiency.TABLE)


def as_set(split):
    return {image.tobytes() for image in split.images}


def test_training_sets_of_a_draw_are_nested_and_stratified():
    small, large = (data_efficiency.training_set(TOY.train, size, draw=1) for size in (5, 20))
    assert np.bincount(small.labels).tolist() == [5] * 10
    assert np.bincount(large.labels).tolist() == [20] * 10
    assert as_set(small) < as_set(large)


def test_draws_differ_and_do_not_depend_on_the_order_of_the_images():
    backwards = data_efficiency.taken(TOY.train, slice(None, None, -1))
    first, second = (data_efficiency.training_set(TOY.train, 5, draw) for draw in (0, 1))
    assert as_set(first) != as_set(second)
    np.testing.assert_array_equal(data_efficiency.training_set(backwards, 5, 0).images, first.images)


def test_the_held_out_fifth_is_balanced_and_apart():
    given = data_efficiency.training_set(TOY.train, 20, 0)
    part, rest = data_efficiency.held_out(given)
    assert (len(part), len(rest)) == (160, 40)
    assert np.bincount(rest.labels).tolist() == [4] * 10
    assert not as_set(part) & as_set(rest)


@pytest.mark.parametrize("arm", [arm for arm in data_efficiency.ARMS if arm != "mobilenet_v2_head"])
def test_ten_times_the_images_are_seen_about_a_third_as_often(arm):
    few, many = (data_efficiency.recipe_of(arm, n, 0, steps=20) for n in (1000, 10_000))
    assert few.epochs / many.epochs == pytest.approx(10**0.5, rel=0.05)
    assert few.stages[-1][1] == many.stages[-1][1] == (32 if arm == "custom_cnn" else 128)


def test_a_training_set_smaller_than_the_classes_is_refused():
    with pytest.raises(ValueError, match="50 images a class"):
        data_efficiency.training_set(TOY.train, 50, 0)


def test_from_scratch_the_batch_normalisation_learns():
    network = parts(data_efficiency.new_model("mobilenet_v2_scratch", 0))[1]
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert all(layer.trainable for layer in norms)


@pytest.mark.skipif(not ROWS, reason="results/data_efficiency.csv is not there yet")
def test_the_table_is_of_cells_that_exist_each_once():
    keys = [(row["images_a_class"], row["arm"], row["draw"]) for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(data_efficiency.cells())
    for row in ROWS:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["seconds"] > 0
        n = 10 * row["images_a_class"]
        if row["arm"] != "mobilenet_v2_head":
            recipe = data_efficiency.recipe_of(row["arm"], n, row["draw"], data_efficiency.STEPS)
            assert row["steps"] == recipe.epochs * math.ceil(n / recipe.batch_size)


def test_a_cell_is_trained_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(data_efficiency, "recipe_of", tiny)
    row = data_efficiency.measure(5, "custom_cnn", 0, TOY, tmp_path)
    assert (row["images_a_class"], row["arm"], row["draw"], row["steps"]) == (5, "custom_cnn", 0, 1)
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    data_efficiency.save(tmp_path / "table.csv", [row])
    assert data_efficiency.read(tmp_path / "table.csv") == [row]


def tiny(arm, n, draw, steps):
    recipe = cc.RECIPES["custom_cnn"]
    return dataclasses.replace(recipe, stages=((1, 32),), batch_size=100, averaging=None, seed=draw)
