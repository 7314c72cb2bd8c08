"""Train either network by its recipe: resumable, and the same bit for bit whether interrupted or not."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import time
from pathlib import Path

import keras
import numpy as np
from scipy.ndimage import gaussian_filter

from .models import ENTRY_SIZE, INTERPOLATION, resize

_MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")
_GREY = 118  # about the mean of all pixels, which the first layer maps to about zero


class TrainingError(RuntimeError):
    """A training that cannot start or resume; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on besides the model and the data.

    A smoke variant is `dataclasses.replace(recipe, stages=((1, 32),), head_epochs=0)`.
    """

    name: str  # of the model, and of the checkpoint's folder
    stages: tuple[tuple[int, int], ...]  # (epochs, working size in px) in turn, the model's own size last
    batch_size: int  # images a step
    optimizer: str  # "sgd" (Nesterov momentum) or "adamw"
    learning_rate: float  # peak, for the mean loss of one batch; cosine from there to zero or the rate of `averaging`
    warmup: float  # share of these steps on which the learning rate climbs from zero to its peak
    weight_decay: float  # decoupled (Loshchilov & Hutter 2019): share of a weight lost a step, by unit of learning rate
    # (epochs, share of the peak) at the end, at a constant rate: what remains is the mean of the weights over all these
    # steps (stochastic weight averaging: Izmailov et al. 2018, arXiv:1803.05407), with BatchNorm measured anew
    averaging: tuple[int, float] | None = None
    bias_factor: float = 1.0  # times the learning rate for biases and BatchNorm shifts, which airbench found to lag
    momentum: float = 0.85  # of "sgd"; lower than usual, because the schedule is short
    label_smoothing: float = 0.0  # probability spread over all classes
    shift: int = 2  # px: largest random translation, edges reflected
    cutout: int = 0  # px: side of a square greyed out at random (DeVries & Taylor 2017, arXiv:1708.04552)
    blur: float = 0.0  # px: largest standard deviation of a Gaussian blur, drawn for each image
    enlargements: tuple[str, ...] = (INTERPOLATION,)  # to the working size, a step by each in turn; first the entry's
    mixed_precision: bool = False  # multiply in bfloat16 where the processor can, which is half as fast again there
    head_epochs: int = 0  # epochs of the new head alone, on features computed once, before everything learns
    seed: int = 0  # of data order and augmentation
    expected_accuracy: tuple[float, float] = (0.0, 1.0)  # on the test split
    expected_minutes: float = float("inf")  # on two processor cores

    @property
    def epochs(self):
        """Number of epochs over all stages."""
        return sum(epochs for epochs, _ in self.stages)

    def working_size(self, epoch):
        """Working size in px during `epoch`, counted from 0."""
        return [size for epochs, size in self.stages for _ in range(epochs)][epoch]

    @property
    def averaged_epochs(self):
        """Number of epochs at the end over which the weights are averaged."""
        return min(self.averaging[0], self.epochs) if self.averaging else 0


RECIPES = {
    # After airbench94 and 96 (Jordan 2024, arXiv:2404.00498): a learning rate of 9 per 1,024 examples of a summed
    # loss is 0.57 for the mean over 500, and a decay of 0.012 becomes 0.009 once momentum no longer multiplies it.
    "custom_cnn": Recipe(
        name="custom_cnn",
        stages=((12, 24), (36, 32)),
        batch_size=500,
        optimizer="sgd",
        learning_rate=0.57,
        warmup=0.2,
        averaging=(6, 0.08),
        weight_decay=0.009,
        bias_factor=64.0,
        label_smoothing=0.2,
        shift=4,
        cutout=12,
        mixed_precision=True,
        expected_accuracy=(0.945, 0.956),
        expected_minutes=90,
    ),
    # Head first, so that its random start does not shake the pretrained features (Kumar et al. 2022, arXiv:2202.10054);
    # the first epochs at 96 px, which take half the time of 128 px, the last at the size the model then works on.
    "mobilenet_v2": Recipe(
        name="mobilenet_v2",
        stages=((6, 96), (8, 128)),
        batch_size=100,
        optimizer="adamw",
        learning_rate=4e-4,
        warmup=0.1,
        weight_decay=0.05,
        label_smoothing=0.1,
        shift=4,
        cutout=8,
        head_epochs=5,
        expected_accuracy=(0.950, 0.965),
        expected_minutes=80,
    ),
}
# Sees its pictures as blocks and as smooth ones, sharp and blurred, and some larger than its working size, so that it
# holds where files go straight in at that size.
RECIPES["mobilenet_v2_robust"] = dataclasses.replace(
    RECIPES["mobilenet_v2"],
    name="mobilenet_v2_robust",
    stages=((4, 96), (1, 192), (4, 128)),
    blur=1.0,
    enlargements=("bicubic", "nearest", "bilinear"),
    expected_accuracy=(0.942, 0.956),
    expected_minutes=80,
)


def train(model, data, recipe, folder=None):
    """Train `model` in place, showing Keras's progress bar, and go on where an interrupted call stopped.

    Every epoch ends with a checkpoint. Data order and augmentation are functions of (seed, epoch), so a run that was
    interrupted and called again ends with the same weights, bit for bit, as one that was not.

    Args:
        model: `keras.Model` of `build_custom_cnn` or `build_mobilenet_v2`.
        data: `Data`; trains on `data.train`, measures every epoch on `data.validation`, never looks at `data.test`.
        recipe: `Recipe`.
        folder: where the checkpoint is kept; default `runs/NAME-seedN` below the working directory.

    Returns:
        list of dicts, one an epoch: `epoch` (from 1; 0 is the head alone), `working_size` (px), `loss` and `val_loss`
        (nats; with label smoothing, but for the head), `accuracy` and `val_accuracy` (0 to 1), `learning_rate` (at
        its end), `seconds`, and, but for the head, `hardware` with the precision of the multiplications.

    Raises:
        TrainingError: the folder holds the checkpoint of another recipe, other data or a network of another shape.
    """
    folder = Path(folder or Path("runs") / f"{recipe.name}-seed{recipe.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    network = model.get_layer("network")
    steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
    optimizer = _optimizer(recipe, steps)
    optimizer.build(network.trainable_variables)

    shapes = [list(variable.shape) for variable in network.variables]
    identity = {"recipe": _as_json(recipe), "data": data.fingerprint, "network": shapes}
    mean = _Mean(network.trainable_variables if recipe.averaging else [])
    parts = {"weight": network.variables, "optimizer": optimizer.variables, "mean": mean.variables}
    history = _restore(folder, identity, parts)
    if history is None:
        history = []
        if any(layer.name == "whiten" for layer in network.layers):
            _whiten(network, data.train.images)
        if recipe.head_epochs:
            history.append(_fit_head(network, data, recipe))
        _save(folder, identity, parts, history)

    done = sum(row["epoch"] > 0 for row in history)
    trainers, size = [], None
    dtype = _dtype(recipe)
    with _precision(network, dtype), _fused(network):
        for epoch in range(done, recipe.epochs):
            if size != recipe.working_size(epoch):
                size = recipe.working_size(epoch)
                trainers = [_trainer(network, size, optimizer, recipe, by) for by in recipe.enlargements]
            print(f"Epoch {epoch + 1}/{recipe.epochs}, {size} px")
            start = time.perf_counter()
            bar = keras.utils.Progbar(steps // recipe.epochs, stateful_metrics=_MEASURES)
            averaged = epoch >= recipe.epochs - recipe.averaged_epochs
            batches, after_step = _batches(data.train, recipe, epoch), mean.update if averaged else None
            logs = _pass(_in_turn(trainers), batches, bar, after_step)
            if averaged and epoch + 1 == recipe.epochs:
                mean.assign()
                _measure_statistics(trainers[0], network, _batches(data.train, recipe))
            logs |= _validated(trainers[0], data, recipe)
            bar.update(bar.target, logs.items(), finalize=True)
            row = _row(epoch + 1, size, logs, float(optimizer.learning_rate), time.perf_counter() - start)
            history.append(row | {"hardware": f"{_hardware()}, {dtype}"})
            _save(folder, identity, parts, history)
    return history


def _pass(step, batches, bar=None, after_step=None):
    """Take one step on each batch; the means of loss and accuracy over the images, by name.

    `fit` would feed the batches through tf.data, whose pipelines are torn down only at the next tick of their tuner,
    up to a minute later (seen with TensorFlow 2.21).
    """
    sums, means, images_seen = dict.fromkeys(("loss", "accuracy"), 0.0), {}, 0
    for index, (images, labels) in enumerate(batches, start=1):
        logs, images_seen = step(images, labels, return_dict=True), images_seen + len(images)
        for name in sums:
            sums[name] += float(logs[name]) * len(images)
            means[name] = sums[name] / images_seen
        if after_step:
            after_step()
        if bar and index < bar.target:
            bar.update(index, means.items())
    return means


def _in_turn(trainers):
    turns = itertools.cycle(trainers)
    return lambda *batch, **options: next(turns).train_on_batch(*batch, **options)


def _validated(trainer, data, recipe):
    measured = _pass(trainer.test_on_batch, _batches(data.validation, recipe))
    return {f"val_{name}": value for name, value in measured.items()}


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
            # Not the mean's own array, which JAX would take away from both with the next step.
            variable.assign(mean.numpy())


def _measure_statistics(trainer, network, batches):
    """Set BatchNorm's moving statistics, which are those of other weights, to their means over batches.

    The images come as they are: without shift and cutout, the statistics are those of the use to come.
    """
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for index, (images, _) in enumerate(batches):
        for layer in norms:
            layer.momentum = index / (index + 1)
        trainer(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _batches(split, recipe, epoch=None):
    """One pass over a split: in random order and augmented where `epoch` is given, else plainly in order."""
    order = np.arange(len(split))
    if epoch is not None:
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(split))
        coin = np.random.default_rng(recipe.seed).integers(2, size=len(split))
    for start in range(0, len(order), recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        images = split.images[chosen]
        if epoch is not None:
            random = np.random.default_rng((recipe.seed, epoch, start))
            # Alternating flip (Jordan 2024): every image is seen mirrored in exactly every second epoch.
            mirrored = (coin[chosen] + epoch) % 2 == 1
            images[mirrored] = images[mirrored, :, ::-1]
            images = _cut_out(_blur(_shift(images, recipe.shift, random), recipe.blur, random), recipe.cutout, random)
        yield images.astype("float32"), keras.utils.to_categorical(split.labels[chosen], 10)


def _shift(images, most, random):
    """Translate each image by up to `most` px in either direction, the edges reflected."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    top, left = random.integers(2 * most + 1, size=(2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _blur(images, most, random):
    """Blur each image by a Gaussian of up to `most` px standard deviation, the edges reflected.

    Fractions are cut off, which darkens an image by about one grey level.
    """
    if not most:
        return images
    widths = random.uniform(0, most, len(images))
    return np.stack([gaussian_filter(image, (width, width, 0)) for image, width in zip(images, widths, strict=True)])


def _cut_out(images, size, random):
    """Grey out a square of `size` px in each image (DeVries & Taylor 2017, arXiv:1708.04552), in place."""
    count, height, width, _ = images.shape
    corners = random.integers((height - size + 1, width - size + 1), size=(count, 2))
    rows, columns = (corners[:, i, None] + np.arange(size) for i in (0, 1))
    images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = _GREY
    return images


class _SGD(keras.optimizers.SGD):
    """SGD whose biases and BatchNorm shifts learn `bias_factor` times as fast, at the same weight decay."""

    def __init__(self, learning_rate, bias_factor, **options):
        super().__init__(learning_rate, name="sgd", **options)
        self.bias_factor = bias_factor

    def build(self, variables):
        super().build(variables)
        self.factors = [self.bias_factor if v.path.endswith(("bias", "beta")) else 1.0 for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)


def _schedule(recipe, steps):
    """Up in a line, down in a cosine; where the recipe averages weights, no lower than its constant rate."""
    down = steps * (recipe.epochs - recipe.averaged_epochs) // recipe.epochs
    warmup = int(recipe.warmup * down)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, down - warmup),
        alpha=recipe.averaging[1] if recipe.averaging else 0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )


def _optimizer(recipe, steps):
    schedule = _schedule(recipe, steps)
    if recipe.optimizer == "sgd":
        return _SGD(
            schedule,
            recipe.bias_factor,
            momentum=recipe.momentum,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    raise TrainingError(f"unknown optimizer '{recipe.optimizer}' in the recipe; use 'sgd' or 'adamw'")


def _trainer(network, size, optimizer, recipe, interpolation):
    """The part of `network` up to its logits, behind an enlargement inside the graph, compiled for training."""
    logits = keras.Model(network.inputs, network.get_layer("logits").output)
    pixels = keras.Input((32, 32, 3))
    trainer = keras.Model(pixels, logits(_enlarge(pixels, size, interpolation)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    # XLA's convolutions on CPUs were measured at less than half the speed.
    trainer.compile(optimizer, loss, metrics=["accuracy"], jit_compile="auto" if _has_accelerator() else False)
    return trainer


def _enlarge(pixels, size, interpolation=INTERPOLATION):
    return pixels if size == ENTRY_SIZE else resize(pixels, size, size < ENTRY_SIZE, interpolation)


def _dtype(recipe):
    """The policy that a network's body is trained in on this machine."""
    return "mixed_bfloat16" if recipe.mixed_precision and _has_bfloat16() else "float32"


@contextlib.contextmanager
def _precision(network, dtype):
    """Let the body of a network compute in `dtype` meanwhile; its variables, first and last layers stay float32."""
    body = [layer for layer in network.layers if layer.name not in ("normalise", "whiten", "shrink", "logits")]
    for layer in body:
        layer.dtype_policy = dtype
    try:
        yield
    finally:
        for layer in body:
            layer.dtype_policy = "float32"


@contextlib.contextmanager
def _fused(network):
    """Let BatchNorm and activations go over their values once meanwhile, where TensorFlow computes on CPUs.

    Keras makes them of one operation a term, each of which reads and writes all values: they were half of a step.
    """
    norms, activations = (
        [layer for layer in network.layers if isinstance(layer, kind)]
        for kind in (keras.layers.BatchNormalization, keras.layers.Activation)
    )
    usual = [layer.activation for layer in activations]
    if keras.backend.backend() == "tensorflow" and not _has_accelerator():
        for layer in activations:
            layer.activation = _compiled(layer.activation)
        for layer in norms:
            layer.call = functools.partial(_normalise, layer)
    try:
        yield
    finally:
        for layer, activation in zip(activations, usual, strict=True):
            layer.activation = activation
        for layer in norms:
            vars(layer).pop("call", None)


@functools.cache
def _compiled(function):
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def _normalise(layer, values, training=None, mask=None):
    """What a BatchNorm layer does, by TensorFlow's operation for the whole of it."""
    if not (training and layer.trainable):
        return type(layer).call(layer, values, training, mask)
    import tensorflow as tf

    shift = keras.ops.cast(layer.beta, "float32")
    scale = keras.ops.cast(layer.gamma, "float32") if layer.scale else keras.ops.ones_like(shift)
    # Its variance is the unbiased one, n / (n - 1) times Keras's: of 4,500 values or more, as good as the same.
    normalised, *measured = tf.compat.v1.nn.fused_batch_norm(values, scale, shift, epsilon=layer.epsilon)
    for moving, value in zip((layer.moving_mean, layer.moving_variance), measured, strict=True):
        moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
    return normalised


def _hardware():
    """What this runs on, in a line."""
    beside = f"{' and '.join(_accelerators())} on {keras.backend.backend()}, " if _has_accelerator() else ""
    names = [line.partition(":")[2].strip() for line in _processor() if line.startswith("model name")]
    widest = next((flag for flag in ("avx512f", "avx2") if flag in " ".join(_processor()).split()), "")
    return f"{beside}{os.cpu_count()} cores, {names[0] if names else platform.processor()} {widest}".strip()


def _has_bfloat16():
    return _has_accelerator() or bool({"avx512_bf16", "amx_bf16", "bf16"} & set(" ".join(_processor()).split()))


def _processor():
    path = Path("/proc/cpuinfo")  # of Linux; elsewhere nothing is known of the processor
    return path.read_text().splitlines() if path.exists() else []


def _has_accelerator():
    return bool(_accelerators())


def _accelerators():
    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


def _whiten(network, images):
    """Fill the layer "whiten" with the principal axes of all 2×2 patches, to unit variance, and their negatives."""
    normalise, whiten = network.get_layer("normalise"), network.get_layer("whiten")
    size, _, channels, filters = whiten.kernel.shape
    width = size * size * channels
    total, count = np.zeros((width, width)), 0
    for start in range(0, len(images), 1000):
        part = np.asarray(keras.ops.convert_to_numpy(normalise(images[start : start + 1000].astype("float32"))))
        patches = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, width).astype("float64")
        total += patches.T @ patches
        count += len(patches)
    variances, axes = np.linalg.eigh(total / count)
    kernel = (axes / np.sqrt(variances + 5e-4)).reshape(size, size, channels, width)
    whiten.kernel.assign(np.concatenate([kernel, -kernel], axis=-1)[..., -filters:])
    whiten.bias.assign(np.zeros(filters))


def _fit_head(network, data, recipe):
    """Fit the layer "logits" alone on features computed once from images that are not augmented."""
    start, size = time.perf_counter(), recipe.working_size(0)
    pixels = keras.Input((32, 32, 3))
    body = keras.Model(network.inputs, network.get_layer("pool").output)
    body = keras.Model(pixels, body(_enlarge(pixels, size)))
    train, validation = (
        [(body.predict_on_batch(images), labels) for images, labels in _batches(split, recipe)]
        for split in (data.train, data.validation)
    )
    head = keras.Sequential([keras.Input(train[0][0].shape[1:]), network.get_layer("logits")])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
    for epoch in range(recipe.head_epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(train))
        logs = _pass(head.train_on_batch, [train[i] for i in order])
    logs |= {f"val_{name}": value for name, value in _pass(head.test_on_batch, validation).items()}
    return _row(0, size, logs, 1e-3, time.perf_counter() - start)


def _row(epoch, size, logs, learning_rate, seconds):
    measures = {name: logs[name] for name in _MEASURES}
    return {"epoch": epoch, "working_size": size, **measures, "learning_rate": learning_rate, "seconds": seconds}


def _as_json(recipe):
    """The recipe's fields that a run depends on, as they come back from JSON."""
    fields = {k: v for k, v in dataclasses.asdict(recipe).items() if not k.startswith("expected_")}
    return json.loads(json.dumps(fields))


def _save(folder, identity, parts, history):
    """Write the checkpoint in one step, so that a crash leaves the old one or the new one, never half of one."""
    arrays = {f"{part}{i:04}": v.numpy() for part, variables in parts.items() for i, v in enumerate(variables)}
    partial = folder / "checkpoint.npz.partial"
    with open(partial, "wb") as file:
        np.savez(file, state=json.dumps({**identity, "history": history}), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "checkpoint.npz")
    (folder / "history.json").write_text(json.dumps(history, indent=1))


def _restore(folder, identity, parts):
    """Put a checkpoint's state back and return its history; None where there is no checkpoint."""
    path = folder / "checkpoint.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop("state")))
    except Exception as error:
        raise TrainingError(f"cannot read the checkpoint {path} ({error}); delete it to start afresh") from error
    for key, value in identity.items():
        if state.get(key) != value:
            raise TrainingError(
                f"{path} belongs to another {key} than the given; name another `folder`, or delete it to start afresh"
            )
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{part}{i:04}"])
    return state["history"]
