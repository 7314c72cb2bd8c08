import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare import training
from cifar_compare.training import (
    TrainingError,
    _batches,
    _blur,
    _cut_out,
    _enlarge,
    _Mean,
    _schedule,
    _shift,
    _trainer,
    _whiten,
)

SMOKE = {
    "custom_cnn": dataclasses.replace(
        cc.RECIPES["custom_cnn"], stages=((2, 24), (1, 32)), averaging=(2, 0.1), batch_size=50
    ),
    "mobilenet_v2": dataclasses.replace(
        cc.RECIPES["mobilenet_v2_robust"],
        stages=((2, 32), (1, 48)),
        enlargements=("bicubic", "nearest"),
        batch_size=50,
        head_epochs=2,
    ),
}

NARROW = (64, 128, 128)  # less than is shipped, to save time


def build(name):
    keras.utils.set_random_seed(0)  # without ImageNet weights, MobileNetV2 starts from the global seed
    return cc.build_custom_cnn(widths=NARROW) if name == "custom_cnn" else cc.build_mobilenet_v2(weights=None)


@pytest.fixture(scope="module")
def data():
    return cc.make_toy_data(train=100, validation=50, test=50)


def weights_equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", SMOKE)
def test_interrupted_equals_uninterrupted_bit_for_bit(name, data, tmp_path, monkeypatch):
    whole = build(name)
    history = cc.train(whole, data, SMOKE[name], tmp_path / "whole")

    for stop_in in (2, 3):  # an epoch of the first stage, and the one after the change of size

        def interrupted(split, recipe, epoch=None, stop_in=stop_in):
            for index, batch in enumerate(_batches(split, recipe, epoch)):
                if (epoch, index) == (stop_in - 1, 1):
                    raise KeyboardInterrupt
                yield batch

        monkeypatch.setattr(training, "_batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cc.train(build(name), data, SMOKE[name], tmp_path / "parts")
        monkeypatch.undo()
    resumed = cc.build_custom_cnn(seed=9, widths=NARROW) if name == "custom_cnn" else build(name)
    again = cc.train(resumed, data, SMOKE[name], tmp_path / "parts")

    assert weights_equal(whole, resumed)
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in h] for h in (history, again)]
    assert without_time[0] == without_time[1]


KILLED = """
import sys, cifar_compare as cc
sys.path.insert(0, sys.argv[1])
from test_training import SMOKE, build
model = build("custom_cnn")
cc.train(model, cc.make_toy_data(train=100, validation=50, test=50), SMOKE["custom_cnn"], sys.argv[2])
model.save_weights(sys.argv[2] + "/end.weights.h5")
"""


def test_a_training_killed_at_random_points_ends_with_the_same_weights(data, tmp_path):
    whole = build("custom_cnn")
    cc.train(whole, data, SMOKE["custom_cnn"], tmp_path / "whole")

    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(folder)]
    random = np.random.default_rng()
    kills = 0
    while not (folder / "end.weights.h5").exists():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # The first two are killed some time after their checkpoint folder has appeared, later ones may finish.
            if kills < 2:
                for _ in range(600):
                    if folder.exists() or process.poll() is not None:
                        break
                    time.sleep(0.1)
                time.sleep(random.uniform(0.5, 6))
                process.send_signal(signal.SIGKILL)
                kills += 1
            assert process.wait(300) in (0, -signal.SIGKILL)
        finally:
            process.kill()
    resumed = build("custom_cnn")
    resumed.load_weights(folder / "end.weights.h5")
    assert weights_equal(whole, resumed)


def test_training_learns_and_reports_each_epoch(data, tmp_path):
    recipe = dataclasses.replace(
        SMOKE["custom_cnn"], stages=((6, 32),), learning_rate=0.1, bias_factor=1.0, averaging=None
    )
    model = build("custom_cnn")
    history = cc.train(model, data, recipe, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.5
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-6)
    assert all(row["seconds"] > 0 for row in history)


def test_batchnorm_of_mobilenet_stays_while_convolutions_learn(data, tmp_path):
    model = build("mobilenet_v2")
    network = model.get_layer("network")
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 52
    before = [layer.get_weights() for layer in norms]
    first = network.get_layer("Conv1").get_weights()[0]
    cc.train(model, data, SMOKE["mobilenet_v2"], tmp_path)
    for layer, then in zip(norms, before, strict=True):
        for now, old in zip(layer.get_weights(), then, strict=True):
            np.testing.assert_array_equal(now, old)
    assert not np.array_equal(network.get_layer("Conv1").get_weights()[0], first)


def test_another_recipe_or_other_data_is_refused(data, tmp_path):
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((1, 24),))
    cc.train(build("custom_cnn"), data, recipe, tmp_path)
    with pytest.raises(TrainingError, match="another recipe"):
        cc.train(build("custom_cnn"), data, dataclasses.replace(recipe, seed=1), tmp_path)
    with pytest.raises(TrainingError, match="another data"):
        cc.train(build("custom_cnn"), dataclasses.replace(data, fingerprint="0"), recipe, tmp_path)
    with pytest.raises(TrainingError, match="another network"):
        cc.train(build("mobilenet_v2"), data, recipe, tmp_path)
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(TrainingError, match="delete it to start afresh"):
        cc.train(build("custom_cnn"), data, recipe, tmp_path)


def test_order_and_augmentation_are_functions_of_seed_and_epoch(data):
    recipe = SMOKE["custom_cnn"]
    one, same, next_epoch = (list(_batches(data.train, recipe, epoch)) for epoch in (3, 3, 4))
    np.testing.assert_array_equal(one[1][0], same[1][0])
    assert not np.array_equal(one[1][0], next_epoch[1][0])
    labels = np.concatenate([labels for _, labels in one])
    np.testing.assert_array_equal(labels.sum(axis=0), np.bincount(data.train.labels, minlength=10))


def test_every_image_is_mirrored_in_every_second_epoch(data):
    recipe = dataclasses.replace(SMOKE["custom_cnn"], shift=0, cutout=0)
    plain = np.concatenate([images for images, _ in _batches(data.train, recipe)])
    mirrored = {image[:, ::-1].tobytes() for image in plain}
    plain = {image.tobytes() for image in plain}
    assert not plain & mirrored
    seen = []
    for epoch in (0, 1, 2):
        images = {image.tobytes() for batch, _ in _batches(data.train, recipe, epoch) for image in batch}
        assert images <= plain | mirrored
        seen.append(images)
    assert seen[0] == seen[2]
    assert not seen[0] & seen[1]


def test_cutout_greys_one_square_in_each_image():
    images = np.zeros((50, 32, 32, 3), np.uint8)
    grey = _cut_out(images, 8, np.random.default_rng(0))[..., 0] > 0
    assert (grey.sum(axis=(1, 2)) == 64).all()
    assert (grey.any(axis=1).sum(axis=1) == 8).all()
    assert len({row.tobytes() for row in grey}) > 40
    assert not _cut_out(np.zeros((2, 32, 32, 3), np.uint8), 0, np.random.default_rng(0)).any()


@pytest.mark.parametrize(("native", "dtype"), [(False, "float32"), (True, "mixed_bfloat16")])
def test_a_trained_model_computes_in_float32(native, dtype, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_has_bfloat16", lambda: native)
    model = build("custom_cnn")
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((1, 24),), mixed_precision=True)
    (row,) = cc.train(model, data, recipe, tmp_path)
    assert row["hardware"].endswith(f", {dtype}")
    assert {layer.dtype_policy.name for layer in model.get_layer("network").layers} == {"float32"}
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float32")}


def test_shift_translates_by_at_most_so_many_pixels():
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None, None], (200, 32, 32, 3))
    rows = _shift(ramp, 2, np.random.default_rng(0))[:, 2:-2, 0, 0].astype(int)
    offsets = rows - np.arange(2, 30)
    assert (offsets == offsets[:, :1]).all()
    assert set(offsets[:, 0]) == {-2, -1, 0, 1, 2}


def test_blur_smooths_each_image_by_a_width_of_its_own(data):
    images = data.train.images
    assert _blur(images, 0.0, np.random.default_rng(0)) is images
    dots = np.zeros((50, 9, 9, 3), np.uint8)
    dots[:, 4, 4, 0] = 200
    blurred = _blur(dots, 1.0, np.random.default_rng(0))
    assert blurred.dtype == np.uint8
    assert not blurred[..., 1:].any()  # channels keep apart
    peaks = blurred[:, 4, 4, 0]
    assert len(set(peaks)) > 20
    assert 200 / (2 * np.pi) * 0.9 <= peaks.min() <= 60  # of a Gaussian of 1 px, and near it
    assert peaks.max() == 200
    assert (blurred.sum(axis=(1, 2, 3)) >= 180).all()
    mean = _blur(images, 1.0, np.random.default_rng(0)).mean()
    assert mean == pytest.approx(images.mean(), abs=1.5)


def test_enlargements_take_turns(data, tmp_path, monkeypatch):
    taken = []

    def told(network, size, optimizer, recipe, interpolation):
        trainer = _trainer(network, size, optimizer, recipe, interpolation)
        step = trainer.train_on_batch
        trainer.train_on_batch = lambda *batch, **kept: taken.append(interpolation) or step(*batch, **kept)
        return trainer

    monkeypatch.setattr(training, "_trainer", told)
    recipe = dataclasses.replace(
        SMOKE["mobilenet_v2"], stages=((2, 40),), enlargements=("bicubic", "nearest"), batch_size=40, head_epochs=0
    )
    cc.train(build("mobilenet_v2"), data, recipe, tmp_path)
    assert taken == 2 * ["bicubic", "nearest", "bicubic"]
    image = data.train.images[:1].astype("float32")
    np.testing.assert_array_equal(_enlarge(image, 64, "nearest"), image.repeat(2, axis=1).repeat(2, axis=2))
    assert np.abs(np.asarray(_enlarge(image, 64)) - np.asarray(_enlarge(image, 64, "nearest"))).max() > 1


def test_whitening_gives_patches_unit_variance_without_correlation(data):
    network = build("custom_cnn").get_layer("network")
    _whiten(network, data.train.images)
    whiten = network.get_layer("whiten")
    outputs = keras.ops.conv(
        network.get_layer("normalise")(data.train.images.astype("float32")), whiten.kernel, padding="valid"
    )
    outputs = np.asarray(outputs).reshape(-1, 24)[:, 12:].astype("float64")
    # Axes whose variance is far above the stabilising 5e-4 come out with unit second moment; the rest with less.
    moments = outputs.T @ outputs / len(outputs)
    assert np.diag(moments)[[0]] == pytest.approx(1, abs=0.01) or np.diag(moments)[-1] == pytest.approx(1, abs=0.01)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 0.01


def test_the_learning_rate_climbs_and_falls_to_zero():
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((10, 32),), learning_rate=0.8, warmup=0.2, averaging=None)
    rate = [float(value) for value in map(_schedule(recipe, 1000), range(1001))]
    assert rate[0] == 0
    assert rate[100] == pytest.approx(0.4)  # half way up
    assert max(rate) == rate[200] == pytest.approx(0.8)
    assert rate[600] == pytest.approx(0.4)  # half way down the cosine
    assert rate[1000] == pytest.approx(0, abs=1e-6)


def test_the_learning_rate_is_constant_while_weights_are_averaged():
    recipe = dataclasses.replace(
        SMOKE["custom_cnn"], stages=((10, 32),), learning_rate=0.8, warmup=0.25, averaging=(2, 0.1)
    )
    rate = [float(value) for value in map(_schedule(recipe, 1000), range(1001))]
    assert max(rate) == rate[200] == pytest.approx(0.8)
    assert rate[500] == pytest.approx((0.8 + 0.08) / 2)  # half way down
    assert all(a >= b for a, b in itertools.pairwise(rate[200:]))
    assert rate[800:] == pytest.approx([0.08] * 201)


def test_what_remains_is_the_mean_of_the_weights_with_statistics_of_its_own(data, tmp_path, monkeypatch):
    kernels = []

    class Spy(_Mean):
        def update(self):
            super().update()
            kernels.append(network.get_layer("conv2a").kernel.numpy())

    monkeypatch.setattr(training, "_Mean", Spy)
    model = build("custom_cnn")
    network = model.get_layer("network")
    # In float32, because the statistics are held against float32 ones below; bfloat16 is 0.2 % off.
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((1, 32), (2, 32)), mixed_precision=False)
    cc.train(model, data, recipe, tmp_path)
    assert len(kernels) == 4  # two epochs of two steps
    np.testing.assert_allclose(network.get_layer("conv2a").kernel.numpy(), np.mean(kernels, axis=0), atol=1e-6)

    norm = network.get_layer("norm1a")
    before_norm = keras.Model(network.input, norm.input)
    batches = (images for images, _ in _batches(data.train, SMOKE["custom_cnn"]))
    variances = [np.var(before_norm(images), axis=(0, 1, 2)) for images in batches]
    np.testing.assert_allclose(norm.moving_variance.numpy(), np.mean(variances, axis=0), rtol=1e-3)
    assert norm.momentum == 0.8


def test_the_hardware_names_accelerators_first(monkeypatch):
    usual = training._hardware()
    assert usual.startswith(f"{os.cpu_count()} cores, ")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0", "gpu:1"])
    assert training._hardware() == f"gpu:0 and gpu:1 on tensorflow, {usual}"


ON_JAX = """
import os
os.environ["KERAS_BACKEND"] = "jax"
from cifar_compare.training import _Mean
import keras
weight = keras.Variable([1.0, 2.0])
mean = _Mean([weight])
mean.update()
mean.assign()
weight.value.delete()  # as a compiled step does with the arrays that it was given, on a GPU
assert mean.means[0].numpy().tolist() == [1.0, 2.0]
"""


def test_the_mean_of_the_weights_outlives_them_on_jax():
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", ON_JAX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SMOKE)
def test_what_is_fused_computes_the_same_and_comes_undone(name, data):
    network = build(name).get_layer("network")
    activations, norms = (
        [layer for layer in network.layers if isinstance(layer, kind)]
        for kind in (keras.layers.Activation, keras.layers.BatchNormalization)
    )
    images, start = data.train.images[:50].astype("float32"), network.get_weights()
    usual, outcomes = [layer.activation for layer in activations], []
    for faster in (contextlib.nullcontext(), training._fused(network)):
        network.set_weights(start)
        with faster:
            answers = [np.asarray(network(images, training=training)) for training in (True, False)]
        statistics = [value.numpy() for layer in norms for value in (layer.moving_mean, layer.moving_variance)]
        outcomes.append(answers + statistics)
    for plain, fused in zip(*outcomes, strict=True):
        # Variances are unbiased where fused: of 450 values in the last maps, 0.2 % greater.
        np.testing.assert_allclose(fused, plain, rtol=5e-3, atol=1e-4)
    if norms[-1].trainable:
        plain, fused = (outcome[-1] - norms[-1].momentum for outcome in outcomes)
        np.testing.assert_allclose(fused / plain, 450 / 449, rtol=2e-4)
    assert [layer.activation for layer in activations] == usual
    assert not any("call" in vars(layer) for layer in norms)


def test_recipe_is_read_by_stage():
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((2, 24), (3, 32)))
    assert recipe.epochs == 5
    assert [recipe.working_size(epoch) for epoch in range(5)] == [24, 24, 32, 32, 32]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_scripts_import_us_before_tensorflow(path):
    # Half the speed on processors without AVX-512, if TF_ENABLE_ONEDNN_OPTS comes too late.
    imported = re.findall(r"^(?:import|from) (cifar_compare|keras|tensorflow)\b", path.read_text(), re.MULTILINE)
    assert imported[:1] in ([], ["cifar_compare"])
