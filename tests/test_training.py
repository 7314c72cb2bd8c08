import contextlib
import dataclasses
import functools
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
from cifar_compare import hardware, kernels, training
from cifar_compare.models import resize, whiten
from cifar_compare.roles import parts
from cifar_compare.training import batches, trainer

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
    return cc.build_custom_cnn(widths=NARROW) if name == "custom_cnn" else cc.build_mobilenet_v2(None, input_size=48)


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
            for index, batch in enumerate(batches(split, recipe, epoch)):
                if (epoch, index) == (stop_in - 1, 1):
                    raise KeyboardInterrupt
                yield batch

        monkeypatch.setattr(training, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cc.train(build(name), data, SMOKE[name], tmp_path / "parts")
        monkeypatch.undo()
    resumed = build(name)
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
        SMOKE["custom_cnn"], stages=((6, 32),), learning_rate=0.1, optimizer=cc.SGD, averaging=None
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
    network = parts(model)[1]
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 52
    before = [layer.get_weights() for layer in norms]
    first = network.get_layer("Conv1").get_weights()[0]
    cc.train(model, data, SMOKE["mobilenet_v2"], tmp_path)
    for layer, then in zip(norms, before, strict=True):
        for now, old in zip(layer.get_weights(), then, strict=True):
            np.testing.assert_array_equal(now, old)
    assert not np.array_equal(network.get_layer("Conv1").get_weights()[0], first)


def test_order_and_augmentation_are_functions_of_seed_and_epoch(data):
    recipe = SMOKE["custom_cnn"]
    one, same, next_epoch = (list(batches(data.train, recipe, epoch)) for epoch in (3, 3, 4))
    np.testing.assert_array_equal(one[1][0], same[1][0])
    assert not np.array_equal(one[1][0], next_epoch[1][0])
    labels = np.concatenate([labels for _, labels in one])
    np.testing.assert_array_equal(labels.sum(axis=0), np.bincount(data.train.labels, minlength=10))


def test_every_image_is_mirrored_in_every_second_epoch(data):
    recipe = dataclasses.replace(SMOKE["custom_cnn"], augmentation=None)
    plain = np.concatenate([images for images, _ in batches(data.train, recipe)])
    mirrored = {image[:, ::-1].tobytes() for image in plain}
    plain = {image.tobytes() for image in plain}
    assert not plain & mirrored
    seen = []
    for epoch in (0, 1, 2):
        images = {image.tobytes() for batch, _ in batches(data.train, recipe, epoch) for image in batch}
        assert images <= plain | mirrored
        seen.append(images)
    assert seen[0] == seen[2]
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(("native", "dtype"), [(False, "float32"), (True, "mixed_bfloat16")])
def test_a_trained_model_computes_in_float32(native, dtype, data, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: native)
    model = build("custom_cnn")
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((1, 32),), averaging=(1, 0.1), mixed_precision=True)
    (row,) = cc.train(model, data, recipe, tmp_path)
    assert row["hardware"].endswith(f", {dtype}")
    assert {layer.dtype_policy.name for layer in parts(model)[1].layers} == {"float32"}
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float32")}


def test_enlargements_take_turns(data, tmp_path, monkeypatch):
    taken = []

    def told(network, size, optimizer, recipe, interpolation):
        made = trainer(network, size, optimizer, recipe, interpolation)
        step = made.train_on_batch
        made.train_on_batch = lambda *batch, **kept: taken.append(interpolation) or step(*batch, **kept)
        return made

    monkeypatch.setattr(training, "trainer", told)
    recipe = dataclasses.replace(SMOKE["mobilenet_v2"], stages=((1, 40), (1, 48)), batch_size=40, head_epochs=0)
    cc.train(build("mobilenet_v2"), data, recipe, tmp_path)
    assert taken == 2 * ["bicubic", "nearest", "bicubic"]
    image = data.train.images[:1].astype("float32")
    blocky, smooth = (np.asarray(resize(image, 64, antialias=False, interpolation=by)) for by in ("nearest", "bicubic"))
    np.testing.assert_array_equal(blocky, image.repeat(2, axis=1).repeat(2, axis=2))
    assert np.abs(blocky - smooth).max() > 1


def test_whitening_gives_patches_unit_variance_without_correlation(data):
    network = parts(build("custom_cnn"))[1]
    whiten(network, data.train.images)
    layer = network.get_layer("whiten")
    outputs = keras.ops.conv(
        network.get_layer("normalise")(data.train.images.astype("float32")), layer.kernel, padding="valid"
    )
    outputs = np.asarray(outputs).reshape(-1, 24)[:, 12:].astype("float64")
    # Axes whose variance is far above the stabilising 5e-4 come out with unit second moment; the rest with less.
    moments = outputs.T @ outputs / len(outputs)
    assert np.diag(moments)[[0]] == pytest.approx(1, abs=0.01) or np.diag(moments)[-1] == pytest.approx(1, abs=0.01)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 0.01


def test_what_remains_is_the_mean_of_the_weights_with_statistics_of_its_own(data, tmp_path, monkeypatch):
    kernels = []

    class Spy(training._Mean):
        def update(self):
            super().update()
            kernels.append(network.get_layer("conv2a").kernel.numpy())

    monkeypatch.setattr(training, "_Mean", Spy)
    model = build("custom_cnn")
    network = parts(model)[1]
    # In float32, because the statistics are held against float32 ones below; bfloat16 is 0.2 % off.
    recipe = dataclasses.replace(SMOKE["custom_cnn"], stages=((1, 32), (2, 32)), mixed_precision=False)
    cc.train(model, data, recipe, tmp_path)
    assert len(kernels) == 4  # two epochs of two steps
    np.testing.assert_allclose(network.get_layer("conv2a").kernel.numpy(), np.mean(kernels, axis=0), atol=1e-6)

    norm = network.get_layer("norm1a")
    before_norm = keras.Model(network.input, norm.input)
    given = (images for images, _ in batches(data.train, SMOKE["custom_cnn"]))
    variances = [np.var(before_norm(images), axis=(0, 1, 2)) for images in given]
    np.testing.assert_allclose(norm.moving_variance.numpy(), np.mean(variances, axis=0), rtol=1e-3)
    assert norm.momentum == 0.8


def test_the_hardware_names_accelerators_first(monkeypatch):
    usual = hardware.hardware()
    assert usual.startswith(f"{os.cpu_count()} cores, ")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0", "gpu:1"])
    assert hardware.hardware() == f"gpu:0 and gpu:1 on tensorflow, {usual}"


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
    network = parts(build(name))[1]
    activations, norms = (
        [layer for layer in network.layers if isinstance(layer, kind)]
        for kind in (keras.layers.Activation, keras.layers.BatchNormalization)
    )
    images, start = data.train.images[:50].astype("float32"), network.get_weights()
    usual, outcomes = [layer.activation for layer in activations], []
    for faster in (contextlib.nullcontext(), kernels.fused(network)):
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


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_scripts_import_us_before_tensorflow(path):
    # Half the speed on processors without AVX-512, if TF_ENABLE_ONEDNN_OPTS comes too late.
    imported = re.findall(r"^(?:import|from) (cifar_compare|keras|tensorflow)\b", path.read_text(), re.MULTILINE)
    assert imported[:1] in ([], ["cifar_compare"])


# One epoch of a network of 1,600 weights: the tests below are about what is given to `train`.
TINY = dataclasses.replace(cc.RECIPES["custom_cnn"], stages=((1, 32),), batch_size=50, averaging=None)


def tiny(seed=0, **options):
    return cc.build_custom_cnn(seed, widths=(8, 8, 8), **options)


def relu():
    model = tiny()
    parts(model)[1].get_layer("gelu2a").activation = keras.activations.relu
    return model


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished training: its folder, its model and its history."""
    folder, model = tmp_path_factory.mktemp("trained"), tiny()
    return folder, model, cc.train(model, data, TINY, folder)


@pytest.mark.parametrize(
    ("model", "recipe", "few", "named"),
    [
        (lambda: tiny(1), TINY, None, "initial weights"),
        (relu, TINY, None, "gelu.* was gelu, is relu|activation was gelu, is relu"),
        (lambda: cc.build_custom_cnn(widths=(8, 8, 16)), TINY, None, r"filters was 8, is 16"),
        (tiny, dataclasses.replace(TINY, seed=1), None, "recipe.seed was 0, is 1"),
        (tiny, dataclasses.replace(TINY, augmentation=None), None, "recipe.augmentation"),
        (tiny, TINY, "train", "train images; train labels"),
        (tiny, TINY, "validation", "validation images; validation labels"),
    ],
)
def test_another_training_in_the_same_folder_is_refused_and_says_what_differs(model, recipe, few, named, data, trained):
    if few:
        split = getattr(data, few)
        data = dataclasses.replace(data, **{few: cc.Split(split.images[:40], split.labels[:40])})
    with pytest.raises(cc.TrainingError, match=f"belongs to another training: .*({named})"):
        cc.train(model(), data, recipe, trained[0])


def test_what_is_finished_or_resumed_says_so(data, trained, tmp_path, capsys):
    folder, model, history = trained
    same = tiny()
    assert cc.train(same, data, TINY, folder) == history
    assert weights_equal(same, model)
    assert f"Already finished: the 1 epochs of {folder}" in capsys.readouterr().out
    assert cc.train(model, data, TINY, folder) == history  # the very network that was trained here


def interrupting(images, labels, random):
    if len(images) > 2 and interrupting.stop_at:  # not those that are tried before the training
        interrupting.stop_at -= 1
        if interrupting.stop_at == 0:
            raise KeyboardInterrupt
    return images, labels


interrupting.stop_at = 0  # an attribute: a global that the function reads would be a part of the recipe


def test_an_interrupted_model_is_left_at_its_checkpoint_and_goes_on_from_there(data, tmp_path, capsys):
    recipe = dataclasses.replace(TINY, stages=((3, 32),), augmentation=interrupting)
    whole, interrupted = tiny(), tiny()
    cc.train(whole, data, recipe, tmp_path / "whole")
    interrupting.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        cc.train(interrupted, data, recipe, tmp_path)
    with np.load(tmp_path / "checkpoint.npz") as saved:
        kernel = parts(interrupted)[1].get_layer("conv1a").kernel.numpy()
        assert any(np.array_equal(kernel, saved[name]) for name in saved.files if name.startswith("weight"))
    capsys.readouterr()
    cc.train(interrupted, data, recipe, tmp_path)
    assert f"Resumed at epoch 2 of 3, from {tmp_path}" in capsys.readouterr().out
    assert weights_equal(whole, interrupted)
    cc.train(tiny(), data, recipe, tmp_path)  # what went on from there is still the training of the initial weights


def test_a_damaged_checkpoint_says_what_to_do(data, tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(cc.TrainingError, match="delete it to start afresh"):
        cc.train(tiny(), data, TINY, tmp_path)


def test_two_trainings_at_once_in_one_folder_are_refused(data, tmp_path):
    def second(images, labels, random):
        if len(images) > 2:
            with pytest.raises(cc.TrainingError, match=f"another training is using {tmp_path}"):
                cc.train(tiny(), data, TINY, tmp_path)
        return images, labels

    cc.train(tiny(), data, dataclasses.replace(TINY, augmentation=functools.partial(second)), tmp_path)


def test_going_on_from_a_trained_model_keeps_what_it_learned(data, tmp_path):
    model = cc.load_model("custom_cnn")
    before = [weight.numpy() for weight in model.trainable_weights]
    first = parts(model)[1].get_layer("whiten").kernel.numpy()
    cc.train(model, data, dataclasses.replace(TINY, learning_rate=1e-9), tmp_path)
    np.testing.assert_allclose(parts(model)[1].get_layer("whiten").kernel.numpy(), first, atol=1e-5)
    for weight, then in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_allclose(weight.numpy(), then, atol=1e-5)


def test_a_training_that_diverges_stops_and_keeps_the_last_checkpoint(data, tmp_path):
    recipe = dataclasses.replace(TINY, stages=((3, 32),), learning_rate=1e8, warmup=0.0)
    model = tiny()
    with pytest.raises(cc.TrainingError, match=r"loss became (nan|inf).*learning rate"):
        cc.train(model, data, recipe, tmp_path)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    with np.load(tmp_path / "checkpoint.npz") as saved:
        assert all(np.isfinite(saved[name]).all() for name in saved.files if name.startswith("weight"))


def wrong(**changes):
    def change(data):
        train, validation = data.train, data.validation
        given = {"train": train, "validation": validation} | {k: v(getattr(data, k)) for k, v in changes.items()}
        return dataclasses.replace(data, **given)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            wrong(train=lambda s: cc.Split((s.images / 255).astype("float32"), s.labels)),
            "train.images.*multiply by 255",
        ),
        (wrong(validation=lambda s: cc.Split(s.images / 255, s.labels)), "validation.images.*multiply by 255"),
        (wrong(train=lambda s: cc.Split(s.images[:, :16], s.labels)), r"expected \(n, 32, 32, 3\)"),
        (wrong(train=lambda s: cc.Split(s.images, s.labels - 1)), "from -1 to 8, expected integers from 0 to 9"),
        (wrong(train=lambda s: cc.Split(s.images, s.labels + 1)), "from 1 to 10, expected integers from 0 to 9"),
        (wrong(train=lambda s: cc.Split(s.images, np.array(cc.CLASSES)[s.labels])), "classes.index"),
        (wrong(train=lambda s: cc.Split(s.images[:0], s.labels[:0])), "n ≥ 1"),
        (wrong(validation=lambda s: cc.Split(s.images[:0], s.labels[:0])), "n ≥ 1"),
        (wrong(train=lambda s: cc.Split(s.images, s.labels, classes=cc.CLASSES[:9])), "from 0 to 8"),
        (wrong(train=lambda s: None), "train is a NoneType, expected a Split"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_any_work(change, message, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        cc.train(tiny(), change(data), TINY, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("labels", [lambda y: y[:, None], lambda y: np.eye(10)[y], lambda y: y.astype("uint8")])
def test_labels_in_a_column_or_one_hot_are_the_same_training(labels, data, trained):
    splits = {k: cc.Split(getattr(data, k).images, labels(getattr(data, k).labels)) for k in ("train", "validation")}
    again = tiny()
    cc.train(again, dataclasses.replace(data, **splits), TINY, trained[0])
    assert weights_equal(again, trained[1])


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        (
            tiny,
            dataclasses.replace(TINY, stages=((1, 24),)),
            "last stage has 24 px, .*resolution is 32",
        ),
        (tiny, dataclasses.replace(TINY, stages=((1, 4), (1, 32))), "pictures of 4 px, .* shrunk to nothing"),
        (lambda: tiny(classes=9), TINY, "10 classes.* the model 9 outputs"),
        (lambda: keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()]), TINY, "with_preprocessing"),
        (tiny, dataclasses.replace(TINY, augmentation=lambda x, y, r: (x[:1], y)), "makes images"),
        (tiny, dataclasses.replace(TINY, augmentation=lambda x, y, r: (x * np.nan, y)), "not finite"),
        (tiny, dataclasses.replace(TINY, augmentation=functools.partial(cc.augment, cutout=40)), "cutout=40"),
        (tiny, dataclasses.replace(TINY, optimizer=lambda schedule: schedule), "expected a Keras optimizer"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(model, recipe, message, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        cc.train(model(), data, recipe, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["channels_first", "mixed_float16", "float16"])
def test_no_global_setting_of_keras_matters(name, data, trained, keras_setting):
    with keras_setting(name):
        model = tiny()
        cc.train(model, data, TINY, trained[0])
        assert {layer.dtype_policy.name for layer in parts(model)[1].layers} == {"float32"}
    assert weights_equal(model, trained[1])


ON_TWO_DEVICES = """
import os
os.environ["KERAS_BACKEND"], os.environ["XLA_FLAGS"] = "jax", " ".join((
    "--xla_force_host_platform_device_count=2",
    # On a busy machine a device may wait for the other for longer than the usual 40 s.
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200",
))
import dataclasses, tempfile
import cifar_compare as cc
import keras, numpy as np

recipe = dataclasses.replace(cc.RECIPES["custom_cnn"], stages=((2, 32),), batch_size=50, averaging=(1, 0.1))

def trained(images=100):
    model, data = cc.build_custom_cnn(widths=(8, 8, 8)), cc.make_toy_data(train=images, validation=50, test=50)
    with tempfile.TemporaryDirectory() as folder:
        cc.train(model, data, dataclasses.replace(recipe, mixed_precision=False), folder)
    return model.get_weights()

before = cc.build_custom_cnn(widths=(8, 8, 8)).get_weights()
alone = trained()
keras.distribution.set_distribution(keras.distribution.DataParallel())
assert keras.distribution.distribution().device_mesh.shape == (2,)
for one, two, start in zip(alone, trained(), before):
    np.testing.assert_allclose(two, one, atol=1e-4)
assert max(np.abs(one - start).max() for one, start in zip(alone, before)) > 0.1
try:
    trained(101)
except ValueError as error:
    assert "batches of 1 images cannot be shared evenly among 2 devices" in str(error), error
else:
    raise AssertionError("an uneven batch was taken")
"""


def test_two_devices_train_as_one_does():
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
