"""Train a network by a recipe: resumable, and the same bit for bit whether interrupted or not."""

import contextlib
import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from . import checks
from .checkpoints import Checkpoint, TrainingError, identity_of
from .data import Split
from .hardware import accelerators, hardware
from .kernels import fused, precision, training_dtype
from .models import IMAGE_SIZE, INTERPOLATION, resize, whiten
from .optimizers import schedule
from .recipes import describe
from .roles import input_size, layers_of, logits_layer, parts
from .system import keras_defaults

_MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")


@keras_defaults()
def train(model, data, recipe, folder=None):
    """Train `model` in place, showing Keras's progress bar, and go on where an interrupted call stopped.

    Every epoch ends with a checkpoint. Data order and augmentation are functions of (seed, epoch), so a run that was
    interrupted and called again ends with the same weights, bit for bit, as one that was not. After an error or an
    interruption the model is left at the last checkpoint. Under `keras.distribution.DataParallel`, on JAX, each device
    takes a share of every batch.

    Args:
        model: `keras.Model` of `build_custom_cnn`, `build_mobilenet_v2`, `with_preprocessing` or `load_model`.
        data: has `.train`, which is trained on, and `.validation`, which is measured after every epoch: each a `Split`
            of images (n, 32, 32, 3). `.test` is never looked at.
        recipe: `Recipe`; its last stage must have the model's input resolution.
        folder: where the checkpoint is kept; default `runs/NAME-seedN` below the working directory.

    Returns:
        list of dicts, one an epoch: `epoch` (from 1; 0 is the head alone), `input_size` (px), `loss` and `val_loss`
        (nats; with label smoothing, but for the head), `accuracy` and `val_accuracy` (0 to 1), `learning_rate` (at
        its end), `seconds`, and, but for the head, `hardware` with the precision of the multiplications.

    Raises:
        ValueError: model, data or recipe do not fit each other; nothing was done yet.
        TrainingError: the folder holds another training, or is used by one, or the loss became NaN or infinite.
    """
    network = parts(model)[1]
    splits = {name: checked(getattr(data, name, None), name) for name in ("train", "validation")}
    _check_fit(model, network, splits, recipe)
    folder = Path(folder or Path("runs") / f"{recipe.name}-seed{recipe.seed}")
    steps = recipe.epochs * -(-len(splits["train"]) // recipe.batch_size)
    optimizer = recipe.optimizer(schedule(recipe, steps))
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"the recipe's optimizer made a {type(optimizer).__name__}, expected a Keras optimizer")
    optimizer.build(network.trainable_variables)

    arrays = {f"{name} {what}": getattr(split, what) for name, split in splits.items() for what in ("images", "labels")}
    identity = identity_of(network, describe(recipe), arrays)
    mean = _Mean(network.trainable_variables if recipe.averaging else [])
    state = {"weight": network.variables, "optimizer": optimizer.variables, "mean": mean.variables}
    with Checkpoint(folder, identity, network.weights, state) as checkpoint:
        history = checkpoint.restore()
        if history is None:
            history = []
            if _is_untrained(network):
                whiten(network, splits["train"].images)
            if recipe.head_epochs:
                history.append(_fit_head(network, splits, recipe))
            checkpoint.save(history)
        else:
            _tell(history, recipe, folder)
        try:
            _run(network, splits, recipe, optimizer, mean, checkpoint, history)
        except BaseException:
            checkpoint.restore()
            raise
    return history


def batches(split, recipe, epoch=None):
    """One pass over a split: in random order and augmented where `epoch` is given, else plainly in order.

    Args:
        split: `Split` of images (n, 32, 32, 3) and labels int64 (n,).
        recipe: `Recipe`, of which the batch size, the seed, the flip and the augmentation count.
        epoch: int from 0, or None.

    Yields:
        images, float32 (m, 32, 32, 3) in [0, 255], and one-hot labels, float32 (m, classes).
    """
    order = np.arange(len(split))
    if epoch is not None:
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(split))
        coin = np.random.default_rng(recipe.seed).integers(2, size=len(split))
    for start in range(0, len(order), recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        images = split.images[chosen]
        labels = keras.utils.to_categorical(split.labels[chosen], len(split.classes)).astype("float32")
        if epoch is not None:
            if recipe.flip:
                mirrored = (coin[chosen] + epoch) % 2 == 1
                images[mirrored] = images[mirrored, :, ::-1]
            if recipe.augmentation:
                random = np.random.default_rng((recipe.seed, epoch, start))
                images, labels = recipe.augmentation(images, labels, random)
        yield np.asarray(images, "float32"), np.asarray(labels, "float32")


def checked(split, name):
    """A split as `train` takes it, its labels as integers; ValueError where it cannot be trained on."""
    images, labels, classes = checks.split(split, name, IMAGE_SIZE)
    return Split(images, labels, classes)


def trainer(network, size, optimizer, recipe, interpolation=INTERPOLATION):
    """The part of `network` up to its logits, behind an enlargement inside the graph, compiled for training."""
    logits = keras.Model(network.inputs, logits_layer(network).output)
    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    made = keras.Model(pixels, logits(_enlarge(pixels, size, interpolation)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    # XLA's convolutions on CPUs were measured at less than half the speed.
    made.compile(optimizer, loss, metrics=["accuracy"], jit_compile="auto" if accelerators() else False)
    return made


def _check_fit(model, network, splits, recipe):
    """Find before the first step whatever would stop a training later."""
    train, size, outputs = splits["train"], input_size(model), network.output_shape[-1]
    if train.classes != splits["validation"].classes or len(train.classes) != outputs:
        given = f"train has {len(train.classes)} classes, validation {len(splits['validation'].classes)}"
        raise ValueError(f"{given}, and the model {outputs} outputs; expected the same classes, and an output for each")
    if recipe.stages[-1][1] != size:
        given = f"the recipe's last stage has {recipe.stages[-1][1]} px, the model's input resolution is {size} px"
        raise ValueError(
            f"{given}; expected the same, or the network would be used at a resolution it was not trained at"
        )
    if network.input_shape[1] and {px for _, px in recipe.stages} != {size}:
        raise ValueError(f"the network takes {size} px only, but the recipe has stages {recipe.stages}")
    for px in sorted({px for _, px in recipe.stages}):
        if not _takes(network, px):
            given = f"pictures of {px} px, of the recipe's stages {recipe.stages},"
            raise ValueError(f"{given} are shrunk to nothing inside the network; leave such stages out")
    logits_layer(network)
    shared = keras.distribution.distribution()
    devices = shared.device_mesh.shape[0] if shared else 1
    batch_sizes = {size for split in splits.values() for size in (recipe.batch_size, len(split) % recipe.batch_size)}
    if uneven := [size for size in sorted(batch_sizes) if size % devices]:
        given = f"batches of {', '.join(map(str, uneven))} images cannot be shared evenly among {devices} devices"
        raise ValueError(f"{given}; choose a batch_size that divides the splits into such batches, or leave images out")
    plain = next(batches(Split(train.images[:2], train.labels[:2], train.classes), recipe, None))
    given = next(batches(Split(train.images[:2], train.labels[:2], train.classes), recipe, 0))
    for what, before, after in zip(("images", "labels"), plain, given, strict=True):
        if before.shape != after.shape or not np.isfinite(after).all():
            raise ValueError(f"the recipe's augmentation makes {what} {after.shape} of {before.shape}, or not finite")
    # What was divided by 255, centred or standardised comes out this small.
    if given[0].max() <= 4 < plain[0].max():
        low, high = given[0].min(), given[0].max()
        raise ValueError(
            f"the recipe's augmentation makes images from {low:g} to {high:g}, expected 0 to 255: keep this range"
        )
    if given[1].min() < 0 or not np.allclose(given[1].sum(axis=1), 1, atol=1e-3):
        raise ValueError("the recipe's augmentation makes labels that do not sum to 1, expected shares of the classes")


def _takes(network, px):
    """Whether anything is left of pictures of `px` px behind each layer."""
    try:
        shapes = keras.Model(network.inputs, [each.output for each in network.layers]).compute_output_shape(
            (1, px, px, 3)
        )
    except ValueError:  # as layers put it whose windows are larger than their input
        return False
    return all(side != 0 for side in keras.tree.flatten(shapes))


def _tell(history, recipe, folder):
    done = sum(row["epoch"] > 0 for row in history)
    where = folder.absolute()
    if done == recipe.epochs:
        print(f"Already finished: the {done} epochs of {where} are taken as they are")
    else:
        print(f"Resumed at epoch {done + 1} of {recipe.epochs}, from {where}")


def _run(network, splits, recipe, optimizer, mean, checkpoint, history):
    """Train the epochs that the history lacks, and save after each."""
    steps = -(-len(splits["train"]) // recipe.batch_size)
    done = sum(row["epoch"] > 0 for row in history)
    trainers, size = [], None
    dtype = training_dtype(recipe)
    with precision(network, dtype), fused(network):
        for epoch in range(done, recipe.epochs):
            if size != recipe.input_size(epoch):
                size = recipe.input_size(epoch)
                trainers = [trainer(network, size, optimizer, recipe, by) for by in recipe.enlargements]
            print(f"Epoch {epoch + 1}/{recipe.epochs}, {size} px")
            start = time.perf_counter()
            bar = keras.utils.Progbar(steps, stateful_metrics=_MEASURES)
            averaged = epoch >= recipe.epochs - recipe.averaged_epochs
            after_step = mean.update if averaged else None
            with _ahead(batches(splits["train"], recipe, epoch)) as given:
                logs = _pass(_in_turn(trainers), given, bar, after_step)
            if averaged and epoch + 1 == recipe.epochs:
                mean.assign()
                measure_statistics(trainers[0], network, batches(splits["train"], recipe))
            logs |= _validated(trainers[0].test_on_batch, batches(splits["validation"], recipe))
            bar.update(bar.target, logs.items(), finalize=True)
            row = _row(epoch + 1, size, logs, float(optimizer.learning_rate), time.perf_counter() - start)
            history.append(row | {"hardware": f"{hardware()}, {dtype}"})
            checkpoint.save(history)


def _pass(step, given, bar=None, after_step=None):
    """Take one step on each batch; the means of loss and accuracy over the images, by name.

    `fit` would feed the batches through tf.data, whose pipelines are torn down only at the next tick of their tuner,
    up to a minute later (seen with TensorFlow 2.21).
    """
    sums, means, images_seen = dict.fromkeys(("loss", "accuracy"), 0.0), {}, 0
    for index, (images, labels) in enumerate(given, start=1):
        logs, images_seen = step(images, labels, return_dict=True), images_seen + len(images)
        for name in sums:
            sums[name] += float(logs[name]) * len(images)
            means[name] = sums[name] / images_seen
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"the loss became {means['loss']} at batch {index}: the training diverges. Lower the recipe's "
                "learning rate or lengthen its warm-up; the model is left at the last checkpoint"
            )
        if after_step:
            after_step()
        if bar and index < bar.target:
            bar.update(index, means.items())
    return means


@contextlib.contextmanager
def _ahead(given):
    """The same in the same order, the next one made in a thread while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        yield _one_ahead(pool, iter(given))


def _one_ahead(pool, given):
    waiting = pool.submit(next, given, None)
    while (batch := waiting.result()) is not None:
        waiting = pool.submit(next, given, None)
        yield batch


def _in_turn(trainers):
    turns = itertools.cycle(trainers)
    return lambda *batch, **options: next(turns).train_on_batch(*batch, **options)


def _validated(step, given):
    return {f"val_{name}": value for name, value in _pass(step, given).items()}


class _Mean:
    """The mean of some variables over the steps of a training."""

    def __init__(self, averaged):
        self.averaged = averaged
        self.steps = keras.Variable(0, dtype="int32", trainable=False)
        self.means = [keras.Variable(np.zeros(v.shape, v.dtype), trainable=False) for v in averaged]
        self.variables = [self.steps, *self.means] if averaged else []

    def update(self):
        self.steps.assign_add(1)
        for mean, variable in zip(self.means, self.averaged, strict=True):
            mean.assign_add((variable - mean) / float(self.steps.numpy()))

    def assign(self):
        for mean, variable in zip(self.means, self.averaged, strict=True):
            # A copy: JAX hands a variable's array over to the next step, and the mean would lose its own.
            variable.assign(mean.numpy())


def measure_statistics(model, network, given):
    """Measure the moving means and variances of BatchNorm anew, where it learns: those of other weights do not fit.

    Args:
        model: `keras.Model` that contains the network and takes the batches' images.
        network: `keras.Model` whose BatchNorm it is; frozen layers stay as they are.
        given: pairs of images and labels, as of `batches`, without augmentation, as in the use to come.
    """
    norms = [layer for layer in layers_of(network, keras.layers.BatchNormalization) if layer.trainable]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    for index, (images, _) in enumerate(given):
        for layer in norms:
            layer.momentum = index / (index + 1)
        model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _is_untrained(network):
    """Whether no step was ever taken: BatchNorm's running means start at zero and move with the first one."""
    norms = list(layers_of(network, keras.layers.BatchNormalization))
    return bool(norms) and not any(layer.moving_mean.numpy().any() for layer in norms)


def _enlarge(pixels, size, interpolation):
    return pixels if size == IMAGE_SIZE else resize(pixels, size, size < IMAGE_SIZE, interpolation)


def _fit_head(network, splits, recipe):
    """Fit the layer of the logits alone, on features computed once from images that are not augmented."""
    start, size = time.perf_counter(), recipe.input_size(0)
    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    body = keras.Model(network.inputs, logits_layer(network).input)
    body = keras.Model(pixels, body(_enlarge(pixels, size, INTERPOLATION)))
    train, validation = (
        [(body.predict_on_batch(images), labels) for images, labels in batches(splits[name], recipe)]
        for name in ("train", "validation")
    )
    head = keras.Sequential([keras.Input(train[0][0].shape[1:]), logits_layer(network)])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
    for epoch in range(recipe.head_epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(train))
        logs = _pass(head.train_on_batch, [train[i] for i in order])
    logs |= _validated(head.test_on_batch, validation)
    return _row(0, size, logs, 1e-3, time.perf_counter() - start)


def _row(epoch, size, logs, learning_rate, seconds):
    measures = {name: logs[name] for name in _MEASURES}
    return {"epoch": epoch, "input_size": size, **measures, "learning_rate": learning_rate, "seconds": seconds}
