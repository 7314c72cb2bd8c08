"""The record of tried ideas: what is missing, what each run changes, and what the page says of it."""

import dataclasses
import json
from unittest import mock

import experiments
import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare import training

TINY = {"stages": ((1, 24),), "averaging": None, "batch_size": 50, "mixed_precision": False}


@pytest.fixture(scope="module")
def data():
    return cc.make_toy_data(train=100, validation=50, test=50)


def row(idea, seed, val_accuracy):
    recipe = json.loads(json.dumps({"stages": [[4, 24], [2, 32]], "cutout": 10}))
    return {
        **{"idea": idea, "seed": seed, "val_accuracy": val_accuracy, "accuracy": 0.9, "recipe": recipe},
        **{"validation_images": 5000, "training_images": 45_000, "seconds": 600.0, "hardware": "2 cores, float32"},
    }


def test_a_run_trains_and_leaves_the_training_as_it_was(data):
    before = training._batches
    made = experiments.run("mixup", 1, data, **TINY)
    assert training._batches is before
    assert made["recipe"]["cutout"] == 0
    assert made["recipe"]["seed"] == 1
    assert (made["training_images"], made["validation_images"]) == (100, 50)
    assert made["recipe"]["stages"] == [[1, 24]]


def test_the_first_layer_is_whitened_unless_that_is_the_idea(data):
    learnt = []

    def spy(model, data, recipe, folder):
        whiten = model.get_layer("network").get_layer("whiten")
        before = whiten.kernel.numpy()
        training._whiten(model.get_layer("network"), data.train.images)
        learnt.append((whiten.kernel.trainable, not np.array_equal(before, whiten.kernel.numpy())))
        return [{"val_accuracy": 0.5, "val_loss": 1.0, "accuracy": 0.5, "hardware": "none"}]

    with mock.patch.object(cc, "train", spy):
        for name in ("recipe", "no-whitening"):
            experiments.run(name, 0, data)
    assert learnt == [(False, True), (True, False)]


def test_kernels_start_at_random_where_that_is_the_idea():
    network = cc.build_custom_cnn(0, (8, 16, 16)).get_layer("network")
    identity = network.get_layer("conv2b").kernel.numpy()
    experiments.IDEAS["no-identity"].start(network)
    kernel = network.get_layer("conv2b").kernel.numpy()
    assert np.array_equal(identity[1, 1], np.eye(16, dtype="float32"))
    assert np.std(kernel) == pytest.approx(np.sqrt(1 / 3 / (9 * 16)), rel=0.1)


def test_another_activation_takes_gelu_s_place():
    network = cc.build_custom_cnn(0, (8, 16, 16)).get_layer("network")
    experiments.IDEAS["relu"].start(network)
    grey = np.full((1, 32, 32, 3), 118, "float32") + np.random.default_rng(0).normal(size=(1, 32, 32, 3))
    behind = keras.Model(network.inputs, [network.get_layer(f"gelu{block}b").output for block in (1, 2, 3)])
    assert all(values.numpy().min() == 0 for values in behind(grey.astype("float32")))


def test_ideas_change_the_batches_of_a_training_alone(data):
    recipe = experiments.short_recipe(**TINY)
    for name in ("random-flip", "mixup"):
        changed = experiments.IDEAS[name].patch[1](training._batches)
        for plain, given in zip(
            training._batches(data.validation, recipe), changed(data.validation, recipe), strict=True
        ):
            assert np.array_equal(plain[0], given[0])
            assert np.array_equal(plain[1], given[1])
        plain, given = (next(batches(data.train, recipe, 0)) for batches in (training._batches, changed))
        assert not np.array_equal(plain[0], given[0])
        np.testing.assert_allclose(given[1].sum(axis=1), 1, rtol=1e-6)
    flipped = next(experiments.IDEAS["random-flip"].patch[1](training._batches)(data.train, recipe, 0))[0]
    plain = next(training._batches(data.train, recipe, 0))[0]
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 10 <= mirrored.sum() <= 40


def test_distillation_gives_each_image_its_own_answer(data):
    recipe = experiments.short_recipe(**TINY)
    right = np.eye(10)[data.train.labels]
    with mock.patch.object(cc, "load_model"), mock.patch.object(cc, "evaluate") as asked:
        asked.return_value.probabilities = 0.2 * right + 0.08
        batches = experiments.IDEAS["distillation"].patch[1](training._batches)
        for epoch in (0, 1):
            for (_, plain), (_, taught) in zip(
                training._batches(data.train, recipe, epoch), batches(data.train, recipe, epoch), strict=True
            ):
                np.testing.assert_allclose(taught, 0.6 * plain + 0.04, atol=1e-6)
    assert asked.call_count == 1


def test_the_deeper_network_starts_as_the_identity_around_more_layers():
    usual, deeper = (
        build(0, (8, 16, 16)).get_layer("network") for build in (cc.build_custom_cnn, experiments.IDEAS["deeper"].build)
    )
    assert deeper.count_params() - usual.count_params() == sum(9 * width**2 + 3 * width for width in (8, 16, 16))
    assert np.array_equal(deeper.get_layer("conv2c").kernel.numpy()[1, 1], np.eye(16, dtype="float32"))
    assert len(deeper.trainable_weights) == len(usual.trainable_weights) + 6
    assert deeper.get_layer("add3").input[1] is deeper.get_layer("gelu3a").output


def test_muon_moves_kernels_evenly_and_the_rest_as_sgd_does():
    network = cc.build_custom_cnn(0, (8, 16, 16)).get_layer("network")
    kernel, bias = network.get_layer("conv2b").kernel, network.get_layer("norm2b").beta
    kernel.assign(kernel * 4 / np.linalg.norm(kernel))
    recipe = experiments.short_recipe()
    before, random = (kernel.numpy(), bias.numpy()), np.random.default_rng(0)
    gradients = [keras.ops.convert_to_tensor(random.normal(size=v.shape).astype("float32")) for v in (kernel, bias)]
    moved = []
    place, change = experiments.IDEAS["muon"].patch
    for kind in (training._SGD, change(training._SGD)):
        with mock.patch.object(training, place, kind):
            optimizer = training._optimizer(recipe, 100)
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


def test_every_idea_changes_fields_that_a_recipe_has():
    fields = {field.name for field in dataclasses.fields(cc.Recipe)}
    assert all(set(idea.fields) <= fields for idea in experiments.IDEAS.values())


def test_only_what_the_record_lacks_is_run():
    rows = [row("recipe", 0, 0.9), row("mixup", 0, 0.9)]
    assert experiments.missing(rows, ["mixup", "adamw", "recipe"]) == [("recipe", 1), ("recipe", 2), ("adamw", 0)]


def test_the_page_tells_noise_from_effect():
    rows = [row("recipe", seed, accuracy) for seed, accuracy in enumerate((0.900, 0.902, 0.904))]
    rows += [row("mixup", 0, 0.896), row("no-cutout", 0, 0.880), row("longer", 0, 0.925)]
    told = {
        line.split("|")[1].strip(): line for line in experiments.page(rows, []).splitlines() if line.startswith("|")
    }
    # Student's t for two degrees of freedom, 4.30, times 0.2 points, times the root of 4/3: 0.99 points.
    assert experiments.noise([0.900, 0.902, 0.904]) == pytest.approx(0.00994, abs=1e-5)
    assert "| -0.60 | no |" in told[experiments.IDEAS["mixup"].says]
    assert "| -2.20 | worse |" in told[experiments.IDEAS["no-cutout"].says]
    assert "| +2.30 | better |" in told[experiments.IDEAS["longer"].says]
    assert "Not run yet: " in experiments.page(rows, [])


def test_the_page_says_what_was_trained_in_full():
    rows = [row("recipe", seed, 0.9) for seed in range(3)]
    full = row("recipe", 0, 0.94) | {"says": "more"}
    told = experiments.page(rows, [full | {"test_accuracy": None}, full | {"test_accuracy": 0.94}])
    assert "| more | 6 | 10 | 90.00 | 94.00 [93.31, 94.64] |  |" in told
    assert "| more | 6 | 10 | 90.00 | 94.00 [93.31, 94.64] | 94.00 [93.52, 94.46] |" in told


def test_a_page_without_noise_is_refused():
    with pytest.raises(SystemExit, match="0 of 3 runs"):
        experiments.page([row("mixup", 0, 0.9)], [])


def test_the_page_is_the_one_that_the_record_makes():
    if not experiments.RECORD.exists():
        assert not experiments.PAGE.exists()
        pytest.skip("results/experiments.json is not there yet: no run was recorded")
    assert experiments.PAGE.read_text() == experiments.page(
        json.loads(experiments.RECORD.read_text()), experiments.full_runs()
    )
