"""Try ideas for the custom CNN one at a time, in a short schedule, and say what each was worth.

    python scripts/experiments.py [IDEA ...]   train what results/experiments.json lacks; go on where it was stopped
    python scripts/experiments.py --page       write docs/experiments.md from that file and results/full_runs.json

Measured on the validation split. Every run differs in one thing from the recipe in short, which is run with three
seeds: their spread is the noise that an idea has to get out of.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from scipy import stats

from cifar_compare import models, training
from cifar_compare.evaluation import proportion_interval

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "results" / "experiments.json", ROOT / "docs" / "experiments.md"
FULL = ROOT / "results" / "full_runs.json"  # by other recipes than today's, added by hand; "released" where that was
SHORT = {"stages": ((4, 24), (2, 32)), "averaging": (1, 0.08), "cutout": 10}
WIDTHS = (64, 256, 256)  # half of the recipe's time
SEEDS = (0, 1, 2)  # of the recipe itself; an idea is run with the first


@dataclasses.dataclass(frozen=True)
class Idea:
    """One change: of fields of the recipe, of something in `cifar_compare.training`, or of the new network."""

    says: str
    fields: dict = dataclasses.field(default_factory=dict)
    patch: tuple = ()  # (name in `training`, function from what stands there to what replaces it)
    start: object = None  # called with the new network
    widths: tuple = WIDTHS
    build: object = cc.build_custom_cnn  # called with the seed and the widths


def _plain_start(network):
    """Draw the 3×3 kernels anew as they were before they were made to pass their input through."""
    for layer in network.layers:
        if layer.name.startswith("conv"):
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))


def _learn_first_layer(network):
    network.get_layer("whiten").kernel.trainable = True


def _activate_by(name):
    def start(network):
        for layer in network.layers:
            if isinstance(layer, keras.layers.Activation):
                layer.activation = keras.activations.get(name)

    return start


def _flip_at_random(batches):
    def flipped(split, recipe, epoch=None):
        for index, (images, labels) in enumerate(batches(split, recipe, epoch)):
            if epoch is not None:  # mirrored by a coin on top of turn by turn is mirrored by a coin
                mirrored = np.random.default_rng((recipe.seed, epoch, index, 1)).integers(2, size=len(images)) == 1
                images[mirrored] = images[mirrored, :, ::-1]
            yield images, labels

    return flipped


def _mix_up(batches):
    """Mix each image and its label with another's (Zhang et al. 2018, arXiv:1710.09412), alpha 0.2."""

    def mixed(split, recipe, epoch=None):
        for index, (images, labels) in enumerate(batches(split, recipe, epoch)):
            if epoch is not None:
                random = np.random.default_rng((recipe.seed, epoch, index, 2))
                share = random.beta(0.2, 0.2, size=len(images)).astype("float32")
                other, rest = random.permutation(len(images)), 1 - share
                images = share[:, None, None, None] * images + rest[:, None, None, None] * images[other]
                labels = share[:, None] * labels + rest[:, None] * labels[other]
            yield images, labels

    return mixed


def _teach(batches):
    """Let half of every label be what MobileNetV2 answers to the plain image (Hinton et al. 2015, arXiv:1503.02531)."""
    answers = []

    def taught(split, recipe, epoch=None):
        if epoch is None:
            yield from batches(split, recipe)
            return
        if not answers:
            answers.append(cc.evaluate(cc.load_model("mobilenet_v2"), split).probabilities)
        answered = answers[0][np.random.default_rng((recipe.seed, epoch)).permutation(len(split))]  # as they are drawn
        for index, (images, labels) in enumerate(batches(split, recipe, epoch)):
            yield images, (labels + answered[index * recipe.batch_size :][: len(labels)]) / 2

    return taught


class _Muon(training._SGD):
    """SGD for all but the 3×3 kernels, whose steps have one length in every direction (Jordan 2024, "Muon").

    As in airbench94's variant, a kernel's norm is held at the root of its outputs, and 3 iterations do.
    """

    newton_schulz = keras.optimizers.Muon().zeropower_via_newtonschulz5

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) != 4:
            super().update_step(gradient, variable, learning_rate)
            return
        ops, outputs = keras.ops, variable.shape[-1]
        momentum = self.momentums[self._get_variable_index(variable)]
        gathered = self.momentum * momentum + gradient
        self.assign(momentum, gathered)
        direction = ops.reshape(gradient + self.momentum * gathered, (-1, outputs))
        step = ops.reshape(self.newton_schulz(direction, 3), variable.shape)
        # Its 0.24 at 2,000 images a step is 0.12 at 500, a fifth of the recipe's peak.
        kernel = variable - 0.2 * learning_rate * step
        self.assign(variable, kernel * ops.sqrt(outputs / ops.sum(kernel**2)))


def _build_deeper(seed, widths):
    """The CNN with a third convolution in each block and a way around its last two, as airbench96's blocks have."""
    kept = {}

    def call(layer, x, **options):
        if layer.name.endswith("b") and isinstance(layer, keras.layers.Activation):
            block = layer.name[-2]
            width = x.shape[-1]
            conv = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{block}c")
            norm = keras.layers.BatchNormalization(scale=False, momentum=0.8, name=f"norm{block}c")
            around = keras.layers.Add(name=f"add{block}")
            x = around([norm(conv(layer(x))), kept[block]])
            return keras.layers.Activation("gelu", name=f"gelu{block}c")(x)
        made = layer(x, **options)
        if layer.name.endswith("a"):
            kept[layer.name[-2]] = made
        return made

    keras.utils.set_random_seed(seed)
    network = keras.models.clone_model(cc.build_custom_cnn(seed, widths).get_layer("network"), call_function=call)
    network.get_layer("whiten").kernel.trainable = False
    for layer in network.layers:
        if layer.name.startswith("conv"):
            models._start_as_identity(layer)
    return models.behind_entry(network, models.ENTRY_SIZE, "custom_cnn")


IDEAS = {
    "recipe": Idea("nothing: the recipe in short"),
    "no-whitening": Idea(
        "first layer drawn at random and learnt",
        patch=("_whiten", lambda _: lambda network, images: None),
        start=_learn_first_layer,
    ),
    "no-identity": Idea("3×3 kernels start at random, none as the identity", start=_plain_start),
    "relu": Idea("ReLU in place of GELU", start=_activate_by("relu")),
    "silu": Idea("SiLU in place of GELU", start=_activate_by("silu")),
    "equal-rates": Idea("biases learn no faster than weights", {"bias_factor": 1.0}),
    "no-decay": Idea("no weight decay", {"weight_decay": 0.0}),
    "no-averaging": Idea("the last epoch goes down to zero, nothing is averaged", {"averaging": None}),
    "random-flip": Idea("mirrored by a coin, not every second epoch", patch=("_batches", _flip_at_random)),
    "no-cutout": Idea("no cutout", {"cutout": 0}),
    "mixup": Idea("mixup in place of cutout", {"cutout": 0}, ("_batches", _mix_up)),
    "distillation": Idea("half of every label is MobileNetV2's answer to the image", patch=("_batches", _teach)),
    "small-shift": Idea("shifts of up to 2 px, not 4", {"shift": 2}),
    "no-smoothing": Idea("no label smoothing", {"label_smoothing": 0.0}),
    "full-size": Idea("all at 32 px, in about the same time", {"stages": ((4, 32),)}),
    "wider": Idea("widths 128-384-384, as in the full recipe", widths=(128, 384, 384)),
    "longer": Idea("twice the epochs", {"stages": ((8, 24), (4, 32))}),
    "adamw": Idea(
        "AdamW at 2e-3 with a decay of 0.05, in place of SGD",
        {"optimizer": "adamw", "learning_rate": 2e-3, "weight_decay": 0.05},
    ),
    "deeper": Idea("a third convolution in each block, a way around the last two", build=_build_deeper),
    "muon": Idea("Muon for the 3×3 kernels, SGD for the rest", patch=("_SGD", lambda _: _Muon)),
}


def write(path, value):
    """Write JSON in one step, so that what was there is lost only to what replaces it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def short_recipe(**fields):
    """The custom CNN's recipe in short, or one that differs from it in the given fields."""
    return dataclasses.replace(cc.RECIPES["custom_cnn"], **(SHORT | fields))


def run(name, seed, data, **fields):
    """Train one idea with one seed, and with further fields for tests; its row for the record."""
    idea = IDEAS[name]
    recipe = short_recipe(**{**fields, **idea.fields, "seed": seed})
    model = idea.build(seed, idea.widths)
    if idea.start:
        idea.start(model.get_layer("network"))
    patched = contextlib.nullcontext()
    if idea.patch:
        place, change = idea.patch
        patched = mock.patch.object(training, place, change(getattr(training, place)))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, patched:
        history = cc.train(model, data, recipe, folder)
    return {
        "idea": name,
        "seed": seed,
        "val_accuracy": history[-1]["val_accuracy"],
        "val_loss": history[-1]["val_loss"],
        "accuracy": history[-1]["accuracy"],
        "validation_images": len(data.validation),
        "training_images": len(data.train),
        "seconds": time.perf_counter() - start,
        "hardware": history[-1]["hardware"],
        "recipe": training._as_json(recipe),
    }


def missing(rows, names):
    """The (idea, seed) pairs that the rows lack, the recipe's own seeds first."""
    done = {(row["idea"], row["seed"]) for row in rows}
    wanted = [(name, seed) for name in names for seed in (SEEDS if name == "recipe" else SEEDS[:1])]
    return [pair for pair in sorted(wanted, key=lambda pair: pair[0] != "recipe") if pair not in done]


def noise(accuracies):
    """Within how much of the mean of these a further run would lie in 95 of 100 cases (Student's t)."""
    n = len(accuracies)
    return float(stats.t.ppf(0.975, n - 1) * np.std(accuracies, ddof=1) * np.sqrt(1 + 1 / n))


def page(rows, full):
    """The tables of what each idea was worth in short, and of what was tried in full, in Markdown."""
    of = {name: [row for row in rows if row["idea"] == name] for name in IDEAS}
    own = [row["val_accuracy"] for row in of["recipe"]]
    if len(own) < len(SEEDS):
        raise SystemExit(
            f"{RECORD} holds {len(own)} of {len(SEEDS)} runs of the recipe itself, without which there is no noise to "
            "compare with; run `python scripts/experiments.py recipe` first"
        )
    band, mean = noise(own), np.mean(own)
    first = of["recipe"][0]
    cutout = first["recipe"]["cutout"]
    stages = " and ".join(f"{epochs} epochs at {size} px" for epochs, size in first["recipe"]["stages"])
    lines = [
        "# What each idea was worth",
        "",
        "Written by `python scripts/experiments.py --page` from `results/experiments.json` and "
        "`results/full_runs.json`; do not edit by hand.",
        "",
        f"Each row changes one thing in the custom CNN's recipe in short ({stages}, cutout of {cutout} px, widths "
        f"{'-'.join(map(str, WIDTHS))}) and is measured on the {first['validation_images']:,} validation images. "
        f"The recipe itself had, with {len(own)} seeds, {', '.join(f'{100 * x:.2f}' for x in own)} %: a mean of "
        f"{100 * mean:.2f} %, a standard deviation of {100 * np.std(own, ddof=1):.2f} points. A further run of the "
        f"same recipe would lie within {100 * band:.2f} points of that mean in 95 of 100 cases, so that only what "
        "moves it by more was shown to matter. What helps in short need not help in full.",
        "",
        "| change | validation accuracy, % | against the recipe, points | beyond the noise "
        "| training accuracy, % | min |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    told = [(rows_of[0], name) for name, rows_of in of.items() if rows_of and name != "recipe"]
    for row, name in sorted(told, key=lambda pair: pair[0]["val_accuracy"]):
        difference = row["val_accuracy"] - mean
        word = "no" if abs(difference) <= band else "better" if difference > 0 else "worse"
        lines.append(
            f"| {IDEAS[name].says} | {100 * row['val_accuracy']:.2f} | {100 * difference:+.2f} | {word} "
            f"| {100 * row['accuracy']:.2f} | {row['seconds'] / 60:.0f} |"
        )
    if left := [name for name, rows_of in of.items() if not rows_of]:
        lines += ["", f"Not run yet: {'; '.join(IDEAS[name].says for name in left)}."]
    lines += [
        "",
        "## In full",
        "",
        "What was trained in the time that is allowed, a training a row. Training and validation accuracy are those of "
        "the last epoch, the latter in the precision of the training or in float32. The last column "
        "is there where the test split was looked at, after the training and its validation.",
        "",
        "| recipe | epochs | min | training accuracy, % | validation accuracy, % | test accuracy, % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in full:
        epochs = sum(count for count, _ in row["recipe"]["stages"])
        measured = [
            "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * x for x in (share, *proportion_interval(round(share * n), n))))
            for share, n in ((row["val_accuracy"], row["validation_images"]), (row["test_accuracy"], 10_000))
            if share is not None
        ]
        lines.append(
            f"| {row['says']} | {epochs} | {row['seconds'] / 60:.0f} | {100 * row['accuracy']:.2f} "
            f"| {' | '.join([*measured, ''][:2])} |"
        )
    machines = dict.fromkeys(row["hardware"] for row in rows)
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}.", ""])


def trainings(card):
    """The trainings by a card's recipe, a row each as in its `seeds`, that of the released model first."""
    released = {
        "seed": card["recipe"]["seed"],
        "training_accuracy": card["history"][-1]["accuracy"],
        "validation_accuracy": card["validation"]["accuracy"],
        "test_accuracy": card["test"]["accuracy"],
        "seconds": card["training_seconds"],
        "hardware": card["hardware"],
    }
    return [released, *card.get("seeds", [])]


def full_runs():
    """The CNN's full trainings: those by the released recipe, as its card has them, and those of the record."""
    card = cc.load_card("custom_cnn")
    rows = [
        {
            "says": f"the released recipe with seed {row['seed']}, on {row['hardware'].split(',')[0]}",
            "recipe": card["recipe"],
            "accuracy": row["training_accuracy"],
            "val_accuracy": row["validation_accuracy"],
            "validation_images": card["validation"]["n"],
            "test_accuracy": row.get("test_accuracy"),
            "seconds": row["seconds"],
        }
        for row in trainings(card)
    ]
    rows[0] |= {"says": f"{rows[0]['says']}: the released model", "released": True}
    return rows + json.loads(FULL.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", nargs="*", metavar="IDEA", help=f"default: all of {' '.join(IDEAS)}")
    parser.add_argument("--page", action="store_true", help="write the page and stop")
    given = parser.parse_args()
    if unknown := sorted(set(given.ideas) - set(IDEAS)):
        parser.error(f"no idea is called {', '.join(unknown)}; there are {' '.join(IDEAS)}")
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
    if given.page:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows, full_runs()))
        return
    data = cc.load_cifar10()
    for name, seed in missing(rows, given.ideas or IDEAS):
        print(f"{name}, seed {seed}")
        rows.append(run(name, seed, data))
        write(RECORD, rows)


if __name__ == "__main__":
    main()
