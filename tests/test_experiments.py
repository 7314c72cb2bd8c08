"""The record of tried ideas: what is missing, what each run changes, and what the page says of it."""

import dataclasses

import experiments
import keras
import numpy as np
import pytest
import readme

import cifar_compare as cc
from cifar_compare.models import whiten
from cifar_compare.optimizers import schedule
from cifar_compare.roles import parts
from cifar_compare.training import batches

TINY = {"stages": ((1, 32),), "averaging": None, "batch_size": 50, "mixed_precision": False}


@pytest.fixture(scope="module")
def data():
    return cc.make_toy_data(train=100, validation=50, test=50)


def row(idea, seed, val_accuracy):
    recipe = {"stages": [[4, 24], [2, 32]], "augmentation": {"function": "cifar_compare.augment", "cutout": 10}}
    return {
        **{"idea": idea, "says": experiments.IDEAS[idea].says, "seed": seed, "val_accuracy": val_accuracy},
        **{"accuracy": 0.9, "recipe": recipe, "validation_images": 5000, "training_images": 45_000},
        **{"seconds": 600.0, "hardware": "2 cores, float32"},
    }


def test_a_run_trains_by_the_idea(data):
    made = experiments.run("mixup", 1, data, **TINY)
    assert made["recipe"]["augmentation"]["function"] == "experiments.mix_up"
    assert made["recipe"]["seed"] == 1
    assert (made["training_images"], made["validation_images"]) == (100, 50)
    assert made["recipe"]["stages"] == [[1, 32]]


def test_both_input_resolutions_are_tried_on_the_same_images(data, monkeypatch):
    monkeypatch.setattr(experiments, "INPUT_SIZES", (32, 40))
    build = cc.build_mobilenet_v2
    monkeypatch.setattr(cc, "build_mobilenet_v2", lambda input_size, seed: build(None, input_size, seed))
    monkeypatch.setattr(cc, "train", lambda model, data, recipe, folder: given.append((len(data.train), recipe.stages)))
    given = []
    made = experiments.try_input_sizes(0, data)
    assert given == [(100, ((2, 32),)), (100, ((2, 40),))]
    accuracies = [run["accuracy"] for run in made["sizes"].values()]
    assert made["difference"]["value"] == pytest.approx(accuracies[1] - accuracies[0])


def test_the_first_layer_is_tried_both_ways_in_clean_and_in_noisy_images(data, monkeypatch):
    networks, train = [], cc.train
    monkeypatch.setattr(cc, "train", lambda model, *rest: networks.append(model) or train(model, *rest))
    row = experiments.try_whitening(1, data, **TINY)
    images, labels = data.validation.images, data.validation.labels
    assert [len(row[name]) for name in ("recipe", "no-whitening")] == [6, 6]
    noisy = cc.study.degrade.corrupt(images, "gaussian_noise", 2)
    for model, name in zip(networks, ("recipe", "no-whitening"), strict=True):
        learnt = name == "no-whitening"
        assert parts(model)[1].get_layer("first" if learnt else "whiten").kernel.trainable == learnt
        assert row[name][0] == cc.evaluate(model, (images, labels)).accuracy
        assert row[name][2] == cc.evaluate(model, (noisy, labels)).accuracy
    assert experiments.missing([row], ["whitening"]) == [("whitening", 0), ("whitening", 2)]


def narrow(idea="recipe"):
    return parts(experiments.build(0, **({"widths": (8, 16, 16)} | experiments.IDEAS[idea].network)))[1]


def test_an_idea_that_changes_nothing_of_the_network_builds_the_cnn():
    usual = cc.build_custom_cnn(0, (8, 16, 16)).get_weights()
    assert all(map(np.array_equal, narrow().get_weights(), usual))
    sizes = [parts(experiments.build(0, **experiments.IDEAS[idea].network))[1] for idea in ("recipe", "wider")]
    usual = [cc.build_custom_cnn(0, widths) for widths in (experiments.WIDTHS, (128, 384, 384))]
    assert [network.count_params() for network in sizes] == [model.count_params() for model in usual]


def test_the_first_layer_is_whitened_unless_that_is_the_idea(data):
    for idea, learnt in (("recipe", False), ("no-whitening", True)):
        network = narrow(idea)
        first = network.get_layer("first" if learnt else "whiten").kernel
        before = first.numpy()
        whiten(network, data.train.images)
        assert first.trainable == learnt == np.array_equal(before, first.numpy())


def test_kernels_start_at_random_where_that_is_the_idea():
    usual, plain = (narrow(idea).get_layer("conv2b").kernel.numpy() for idea in ("recipe", "no-identity"))
    assert np.array_equal(usual[1, 1], np.eye(16, dtype="float32"))
    assert np.std(plain) == pytest.approx(np.sqrt(1 / 3 / (9 * 16)), rel=0.1)


def test_another_activation_takes_gelu_s_place():
    network = narrow("relu")
    grey = np.full((1, 32, 32, 3), 118, "float32") + np.random.default_rng(0).normal(size=(1, 32, 32, 3))
    behind = keras.Model(network.inputs, [network.get_layer(f"gelu{block}b").output for block in (1, 2, 3)])
    assert all(values.numpy().min() == 0 for values in behind(grey.astype("float32")))


def test_muon_moves_kernels_evenly_and_the_rest_as_sgd_does():
    network = narrow()
    kernel, bias = network.get_layer("conv2b").kernel, network.get_layer("norm2b").beta
    kernel.assign(kernel * 4 / np.linalg.norm(kernel))
    before, random = (kernel.numpy(), bias.numpy()), np.random.default_rng(0)
    gradients = [keras.ops.convert_to_tensor(random.normal(size=v.shape).astype("float32")) for v in (kernel, bias)]
    moved = []
    for idea in ("recipe", "muon"):
        recipe = experiments.short_recipe(**experiments.IDEAS[idea].recipe)
        optimizer = recipe.optimizer(schedule(recipe, 100))
        optimizer.build([kernel, bias])
        optimizer.iterations.assign(10)
        optimizer.apply(gradients)
        rate = float(optimizer.learning_rate)
        moved.append((kernel.numpy() - before[0], bias.numpy() - before[1]))
        kernel.assign(before[0])
        bias.assign(before[1])
    (_, by_sgd), (step, by_muon) = moved
    np.testing.assert_allclose(by_muon, by_sgd, rtol=1e-5)
    assert np.linalg.norm(before[0] + step) == pytest.approx(4, rel=1e-5)
    lengths = np.linalg.svd(step.reshape(-1, 16), compute_uv=False) / (0.2 * rate)
    assert 0.4 < lengths.min() <= lengths.max() < 1.4


def test_ideas_change_the_batches_of_a_training_alone(data):
    plain_recipe = experiments.short_recipe(batch_size=50)
    for name in ("random-flip", "mixup"):
        recipe = experiments.short_recipe(batch_size=50, **experiments.IDEAS[name].recipe)
        for plain, given in zip(batches(data.validation, plain_recipe), batches(data.validation, recipe), strict=True):
            assert np.array_equal(plain[0], given[0])
            assert np.array_equal(plain[1], given[1])
        plain, given = (next(batches(data.train, each, 0)) for each in (plain_recipe, recipe))
        assert not np.array_equal(plain[0], given[0])
        np.testing.assert_allclose(given[1].sum(axis=1), 1, rtol=1e-6)
    recipe = experiments.short_recipe(batch_size=50, **experiments.IDEAS["random-flip"].recipe)
    flipped, plain = (next(batches(data.train, each, 0))[0] for each in (recipe, plain_recipe))
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 10 <= mirrored.sum() <= 40


def test_distillation_gives_each_image_its_own_answer(data, monkeypatch):
    class Teacher:
        @staticmethod
        def predict_on_batch(images):
            return np.full((len(images), 10), 0.08) + 0.2 * (np.arange(10) == images[:, 0, 0, :1] % 10)

    monkeypatch.setattr(experiments, "load_once", {"mobilenet_v2": Teacher}.get)
    images, labels = data.train.images[:20], np.eye(10, dtype="float32")[data.train.labels[:20]]
    _, taught = experiments.teach(images, labels, np.random.default_rng(0))
    np.testing.assert_allclose(taught, (labels + Teacher.predict_on_batch(images)) / 2)


def test_every_idea_changes_fields_that_a_recipe_has():
    fields = {field.name for field in dataclasses.fields(cc.Recipe)}
    assert all(set(idea.recipe) <= fields for idea in experiments.IDEAS.values())


def test_only_what_the_record_lacks_is_run():
    rows = [row("recipe", 0, 0.9), row("mixup", 0, 0.9)]
    assert experiments.missing(rows, ["mixup", "adamw", "recipe"]) == [("recipe", 1), ("recipe", 2), ("adamw", 0)]


def test_noise_is_told_from_effect():
    rows = [row("recipe", seed, accuracy) for seed, accuracy in enumerate((0.900, 0.902, 0.904))]
    rows += [row("mixup", 0, 0.896), row("no-cutout", 0, 0.880), row("longer", 0, 0.925)]
    told = experiments.worth(rows)
    # Student's t for two degrees of freedom, 4.30, times 0.2 points, times the root of 4/3: 0.99 points.
    assert told["noise"] == pytest.approx(0.00994, abs=1e-5)
    assert [(each["idea"], each["verdict"]) for each in told["tried"]] == [
        *(("no-cutout", "worse"), ("mixup", "not shown"), ("longer", "better"))
    ]
    assert [each["gain"] for each in told["tried"]] == pytest.approx([-0.022, -0.006, 0.023])
    assert experiments.IDEAS["muon"].says in told["left"]
    assert experiments.IDEAS["mixup"].says not in told["left"]


def test_what_the_page_says_of_cutout_is_true():
    (tried,) = [row for row in experiments.worth(experiments.recorded())["tried"] if row["idea"] == "no-cutout"]
    assert tried["verdict"] == "better"
    assert cc.RECIPES["custom_cnn"].augmentation.keywords["cutout"] > 0


def test_what_the_page_says_of_the_planning_runs_is_true():
    cutout, cutmix, *_, first, second = readme.facts()["by_hand"]["planning"]["rows"]
    cards = {name: cc.load_card(name)["validation"]["accuracy"] for name in ("custom_cnn", "mobilenet_v2")}
    assert abs(cutout["validation_accuracy"] - cards["custom_cnn"]) < 0.005
    assert cutmix["validation_accuracy"] - cutout["validation_accuracy"] > 0.005
    assert min(first["validation_accuracy"], second["validation_accuracy"]) > cards["mobilenet_v2"]


def test_the_difference_of_the_input_resolutions_is_the_recorded_one():
    recorded = experiments.input_sizes()
    large, small = (recorded["sizes"][size]["accuracy"] for size in ("128", "96"))
    assert recorded["difference"]["value"] == pytest.approx(large - small)
