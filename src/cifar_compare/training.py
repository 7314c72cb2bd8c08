"""Train either network by its recipe: resumable, and the same bit for bit whether interrupted or not."""

import dataclasses
import json
import os
import time
from pathlib import Path

import keras
import numpy as np

from .models import resize


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
    learning_rate: float  # peak, for the mean loss of one batch; cosine from there to zero at the last step
    warmup: float  # share of all steps on which the learning rate climbs from zero to its peak
    weight_decay: (
        float  # decoupled (Loshchilov & Hutter 2019): share of a weight lost a step, per unit of learning rate
    )
    bias_factor: float = 1.0  # times the learning rate for biases and BatchNorm shifts, which airbench found to lag
    momentum: float = 0.85  # of "sgd"; lower than usual, because the schedule is short
    label_smoothing: float = 0.0  # probability spread over all classes
    shift: int = 2  # px: largest random translation, edges reflected
    head_epochs: int = 0  # epochs of the new head alone, on features computed once, before everything learns
    seed: int = 0  # of data order and augmentation
    expected_accuracy: tuple[float, float] = (0.0, 1.0)  # on the test split
    expected_minutes: float = float("inf")  # on the hardware that the card names

    @property
    def epochs(self):
        """Number of epochs over all stages."""
        return sum(epochs for epochs, _ in self.stages)

    def working_size(self, epoch):
        """Working size in px during `epoch`, counted from 0."""
        return [size for epochs, size in self.stages for _ in range(epochs)][epoch]


RECIPES = {
    # After airbench94 (Jordan 2024, arXiv:2404.00498), whose learning rate of 11.5 per 1,024 examples of a summed
    # loss is 0.73 for the mean over 500, and whose decay 0.0153 becomes 0.009 once momentum no longer multiplies it.
    "custom_cnn": Recipe(
        name="custom_cnn",
        stages=((6, 24), (9, 32)),
        batch_size=500,
        optimizer="sgd",
        learning_rate=0.73,
        warmup=0.2,
        weight_decay=0.009,
        bias_factor=64.0,
        label_smoothing=0.2,
        expected_accuracy=(0.928, 0.940),
        expected_minutes=75,
    ),
    # Head first, so that its random start does not shake the pretrained features (Kumar et al. 2022, arXiv:2202.10054);
    # half of the epochs at 64 px, then 96 px. On a CPU that saves little: the history has 262 s an epoch against 335 s.
    "mobilenet_v2": Recipe(
        name="mobilenet_v2",
        stages=((4, 64), (4, 96)),
        batch_size=100,
        optimizer="adamw",
        learning_rate=3e-4,
        warmup=0.1,
        weight_decay=0.05,
        label_smoothing=0.1,
        head_epochs=5,
        expected_accuracy=(0.940, 0.955),
        expected_minutes=35,
    ),
}


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
        (nats, with label smoothing), `accuracy` and `val_accuracy` (0 to 1), `learning_rate` (at its end), `seconds`.

    Raises:
        TrainingError: the folder holds the checkpoint of another recipe or other data.
    """
    folder = Path(folder or Path("runs") / f"{recipe.name}-seed{recipe.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    network = model.get_layer("network")
    steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
    optimizer = _optimizer(recipe, steps)
    optimizer.build(network.trainable_variables)

    identity = {"recipe": _as_json(recipe), "data": data.fingerprint}
    history = _restore(folder, identity, network, optimizer)
    if history is None:
        history = []
        if any(layer.name == "whiten" for layer in network.layers):
            _whiten(network, data.train.images)
        if recipe.head_epochs:
            history.append(_fit_head(network, data, recipe))
        _save(folder, identity, network, optimizer, history)

    done = sum(row["epoch"] > 0 for row in history)
    trainer, size = None, None
    for epoch in range(done, recipe.epochs):
        if size != recipe.working_size(epoch):
            size = recipe.working_size(epoch)
            trainer = _trainer(network, size, optimizer, recipe)
        start = time.perf_counter()
        one_epoch = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_, trainer=trainer: setattr(trainer, "stop_training", True)
        )
        logs = trainer.fit(
            _Batches(data.train, recipe, epoch),
            validation_data=_Batches(data.validation, recipe),
            initial_epoch=epoch,
            epochs=recipe.epochs,  # one_epoch stops after the first; the progress bar counts to the last
            shuffle=False,
            callbacks=[one_epoch],
        ).history
        history.append(_row(epoch + 1, size, logs, float(optimizer.learning_rate), time.perf_counter() - start))
        _save(folder, identity, network, optimizer, history)
    return history


class _Batches(keras.utils.PyDataset):
    """One pass over a split: in random order and augmented where `epoch` is given, else plainly in order."""

    def __init__(self, split, recipe, epoch=None):
        super().__init__()
        self.split, self.recipe, self.epoch = split, recipe, epoch
        self.order = np.arange(len(split))
        if epoch is not None:
            self.order = np.random.default_rng((recipe.seed, epoch)).permutation(len(split))
            self.coin = np.random.default_rng(recipe.seed).integers(2, size=len(split))

    def __len__(self):
        return -(-len(self.order) // self.recipe.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.recipe.batch_size :][: self.recipe.batch_size]
        images = self.split.images[chosen]
        if self.epoch is not None:
            # Alternating flip (Jordan 2024): every image is seen mirrored in exactly every second epoch.
            mirrored = (self.coin[chosen] + self.epoch) % 2 == 1
            images[mirrored] = images[mirrored, :, ::-1]
            images = _shift(images, self.recipe.shift, np.random.default_rng((self.recipe.seed, self.epoch, index)))
        return images.astype("float32"), keras.utils.to_categorical(self.split.labels[chosen], 10)


def _shift(images, most, random):
    """Translate each image by up to `most` px in either direction, the edges reflected."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    top, left = random.integers(2 * most + 1, size=(2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


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


def _optimizer(recipe, steps):
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, steps - int(recipe.warmup * steps)),
        warmup_target=recipe.learning_rate,
        warmup_steps=int(recipe.warmup * steps),
    )
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


def _trainer(network, size, optimizer, recipe):
    """The part of `network` up to its logits, behind an enlargement inside the graph, compiled for training."""
    logits = keras.Model(network.inputs, network.get_layer("logits").output)
    pixels = keras.Input((32, 32, 3))
    trainer = keras.Model(pixels, logits(pixels if size == 32 else resize(pixels, size)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    # XLA on CPUs was measured at less than half the speed.
    trainer.compile(optimizer, loss, metrics=["accuracy"], jit_compile="auto" if _has_accelerator() else False)
    return trainer


def _has_accelerator():
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


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
    start = time.perf_counter()
    size = recipe.working_size(0)
    pixels = keras.Input((32, 32, 3))
    body = keras.Model(network.inputs, network.get_layer("pool").output)
    body = keras.Model(pixels, body(resize(pixels, size)))
    features = {
        name: (
            body.predict(_Batches(split, recipe), verbose=0),
            keras.utils.to_categorical(split.labels, 10),
        )
        for name, split in (("train", data.train), ("validation", data.validation))
    }
    keras.utils.set_random_seed(recipe.seed)  # fit shuffles by the global seed
    head = keras.Sequential([keras.Input(features["train"][0].shape[1:]), network.get_layer("logits")])
    head.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    logs = head.fit(
        *features["train"],
        validation_data=features["validation"],
        batch_size=recipe.batch_size,
        epochs=recipe.head_epochs,
        verbose=0,
    ).history
    return _row(0, size, logs, 1e-3, time.perf_counter() - start)


def _row(epoch, size, logs, learning_rate, seconds):
    measures = {name: float(logs[name][-1]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    return {
        "epoch": epoch,
        "working_size": size,
        **measures,
        "learning_rate": learning_rate,
        "seconds": seconds,
    }


def _as_json(recipe):
    """The recipe's fields that a run depends on, as they come back from JSON."""
    fields = {k: v for k, v in dataclasses.asdict(recipe).items() if not k.startswith("expected_")}
    return json.loads(json.dumps(fields))


def _save(folder, identity, network, optimizer, history):
    """Write the checkpoint in one step, so that a crash leaves the old one or the new one, never half of one."""
    arrays = {f"weight{i:04}": v.numpy() for i, v in enumerate(network.variables)}
    arrays |= {f"optimizer{i:04}": v.numpy() for i, v in enumerate(optimizer.variables)}
    partial = folder / "checkpoint.npz.partial"
    with open(partial, "wb") as file:
        np.savez(file, state=json.dumps({**identity, "history": history}), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "checkpoint.npz")
    (folder / "history.json").write_text(json.dumps(history, indent=1))


def _restore(folder, identity, network, optimizer):
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
        if state[key] != value:
            raise TrainingError(
                f"{path} belongs to another {key} than the given; name another `folder`, or delete it to start afresh"
            )
    for prefix, variables in (("weight", network.variables), ("optimizer", optimizer.variables)):
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{prefix}{i:04}"])
    return state["history"]
