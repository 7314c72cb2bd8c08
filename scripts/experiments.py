"""Try ideas for the custom CNN one at a time, in a short schedule, and say what each was worth.

    python scripts/experiments.py [IDEA ...]   train what results/experiments.json lacks; go on where it was stopped

docs/templates/experiments.md tells what came of it, and of the trainings in full that results/full_runs.json keeps.
Measured on the validation split. Every run differs in one thing from the recipe in short, which is run with three
seeds: their spread is the noise that an idea has to get out of. The input resolution of MobileNetV2 was tried likewise,
and what the first layer does in noisy pictures.
The record also has a deeper network, whose code is gone because it was worth nothing.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from functools import cache, partial
from operator import itemgetter
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from scipy import stats

from cifar_compare.recipes import describe
from cifar_compare.roles import parts
from cifar_compare.system import write_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "experiments.json"
FULL = ROOT / "results" / "full_runs.json"  # by other recipes than today's, added by hand; "released" where that was
WIDTHS = (64, 256, 256)  # half of the recipe's time
SEEDS = (0, 1, 2)  # of the recipe itself, and of "whitening"; an idea is run with the first
INPUT_SIZES = (96, 128)  # px, of MobileNetV2, each tried for two epochs on a tenth of the training images
USUAL = cc.RECIPES["custom_cnn"]
augmentation = partial(cc.augment, shift=4, cutout=10)  # of the recipe in short
load_once = cache(cc.load_model)


def short_recipe(**fields):
    """The custom CNN's recipe in short, or one that differs from it in the given fields."""
    short = {"stages": ((4, 24), (2, 32)), "averaging": (1, 0.08), "augmentation": augmentation}
    return dataclasses.replace(USUAL, **(short | fields))


def flip_at_random(images, labels, random):
    """Mirror by a coin, on top of the recipe's augmentation: after every second epoch's flip that is a coin as well."""
    images, labels = augmentation(images, labels, random)
    return np.where(random.integers(2, size=(len(images), 1, 1, 1)), images, images[:, :, ::-1]), labels


def mix_up(images, labels, random):
    """Mix each image and its label with another's (Zhang et al. 2018, arXiv:1710.09412), alpha 0.2, without cutout."""
    images, labels = augmentation(images, labels, random, cutout=0)
    share = random.beta(0.2, 0.2, size=len(images)).astype("float32")
    other, rest = random.permutation(len(images)), 1 - share
    images = share[:, None, None, None] * images + rest[:, None, None, None] * images[other]
    return images, share[:, None] * labels + rest[:, None] * labels[other]


def teach(images, labels, random):
    """Let half of every label be what MobileNetV2 answers to the image (Hinton et al. 2015, arXiv:1503.02531)."""
    answers = np.asarray(load_once("mobilenet_v2").predict_on_batch(images))
    images, labels = augmentation(images, labels, random)
    return images, (labels + answers) / 2


class Muon(cc.SGD):
    """SGD for all but the 3×3 kernels, whose steps have one length in every direction (Jordan 2024, "Muon").

    As in airbench94's variant, a kernel's norm is held at the root of its outputs, and 3 iterations do.
    """

    def update_step(self, gradient, kernel, learning_rate):
        if len(kernel.shape) != 4:
            super().update_step(gradient, kernel, learning_rate)
            return
        ops, outputs = keras.ops, kernel.shape[-1]
        momentum = self.momentums[self._get_variable_index(kernel)]
        gathered = self.momentum * momentum + gradient
        self.assign(momentum, gathered)
        step = ops.reshape(gradient + self.momentum * gathered, (-1, outputs))
        step /= ops.norm(step) + 1e-7
        for _ in range(3):  # Newton and Schulz's, to the fifth power
            gram = ops.transpose(step) @ step
            step = 3.4445 * step + step @ (2.0315 * gram @ gram - 4.775 * gram)
        # Its 0.24 at 2,000 images a step is 0.12 at 500, a fifth of the recipe's peak.
        moved = kernel - 0.2 * learning_rate * ops.reshape(step, kernel.shape)
        self.assign(kernel, moved * ops.sqrt(outputs / ops.sum(moved**2)))


def build(seed, widths=WIDTHS, activation="gelu", identity=True, whitened=True):
    """The CNN in short, or one with other activations, a random start of all 3×3 kernels, or a learnt first layer."""
    model = cc.build_custom_cnn(seed, widths, whitened=whitened)
    for layer in parts(model)[1].layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.get(activation)
        if not identity and layer.name.startswith("conv"):  # drawn anew, as before it passed its input through
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
    return model


@dataclasses.dataclass(frozen=True)
class Idea:
    """One change: of fields of the recipe, or of how the network is built."""

    says: str
    recipe: dict = dataclasses.field(default_factory=dict)
    network: dict = dataclasses.field(default_factory=dict)  # arguments of `build`


def optimizer(kind=USUAL.optimizer.func, **options):
    """The recipe's optimizer with other options, or another that takes the same, as the field of a recipe."""
    return {"optimizer": partial(kind, **(USUAL.optimizer.keywords | options))}


ADAMW = {"optimizer": partial(keras.optimizers.AdamW, weight_decay=0.05), "learning_rate": 2e-3}
IDEAS = {
    "recipe": Idea("nothing: the recipe in short"),
    "no-whitening": Idea("first layer random and learned, not whitened", network={"whitened": False}),
    "no-identity": Idea("all 3×3 kernels start at random, none as the identity", network={"identity": False}),
    "relu": Idea("ReLU in place of GELU", network={"activation": "relu"}),
    "silu": Idea("SiLU in place of GELU", network={"activation": "silu"}),
    "equal-rates": Idea("biases learn no faster than weights", optimizer(bias_factor=1.0)),
    "no-decay": Idea("no weight decay", optimizer(weight_decay=0.0)),
    "no-averaging": Idea("the last epoch goes down to zero, nothing is averaged", {"averaging": None}),
    "random-flip": Idea("mirrored at random, not every second epoch", {"augmentation": flip_at_random}),
    "no-cutout": Idea("no cutout", {"augmentation": partial(augmentation, cutout=0)}),
    "mixup": Idea("mixup in place of cutout", {"augmentation": mix_up}),
    "distillation": Idea("half of every label is MobileNetV2's answer to the image", {"augmentation": teach}),
    "small-shift": Idea("shifts of up to 2 px, not 4", {"augmentation": partial(augmentation, shift=2)}),
    "no-smoothing": Idea("no label smoothing", {"label_smoothing": 0.0}),
    "full-size": Idea("all at 32 px, in about the same time", {"stages": ((4, 32),)}),
    "wider": Idea("widths 128-384-384, as in the full recipe", network={"widths": (128, 384, 384)}),
    "longer": Idea("twice the epochs", {"stages": ((8, 24), (4, 32))}),
    "adamw": Idea("AdamW at 2e-3 with a decay of 0.05, in place of SGD", ADAMW),
    "muon": Idea("Muon for the 3×3 kernels, SGD for the rest", optimizer(Muon)),
}


def trained(idea, seed, data, fields):
    """The network of an idea, trained; its recipe, and the last epoch."""
    recipe, model = short_recipe(**{**fields, **idea.recipe, "seed": seed}), build(seed, **idea.network)
    with tempfile.TemporaryDirectory() as folder:
        return model, recipe, cc.train(model, data, recipe, folder)[-1]


def run(name, seed, data, **fields):
    """Train one idea with one seed, and with further fields for tests; its row for the record."""
    idea, start = IDEAS[name], time.perf_counter()
    _, recipe, last = trained(idea, seed, data, fields)
    row = {"idea": name, "says": idea.says, "seed": seed, "seconds": time.perf_counter() - start}
    row |= {"validation_images": len(data.validation), "training_images": len(data.train)}
    row |= {key: last[key] for key in ("val_accuracy", "val_loss", "accuracy", "hardware")}
    described = describe(recipe).items()
    return row | {"recipe": {key: value for key, value in described if not key.startswith("expected_")}}


def try_input_sizes(seed, data):
    """MobileNetV2 after a short training at either input resolution; the row for the record."""
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:450] for label in range(10)])
    few = cc.Split(data.train.images[chosen], data.train.labels[chosen])
    results = {}
    for size in INPUT_SIZES:
        recipe = dataclasses.replace(cc.RECIPES["mobilenet_v2"], stages=((2, size),), seed=seed)
        model = cc.build_mobilenet_v2(input_size=size, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            cc.train(model, dataclasses.replace(data, train=few), recipe, folder)
        results[size] = cc.evaluate(model, data.validation)
    paired = cc.compare(*reversed(results.values()))
    row = {"idea": "input-size", "seed": seed, "training_images": len(few), "epochs": recipe.epochs}
    row |= {"validation_images": len(data.validation)}
    row |= {"sizes": {size: {"accuracy": of.accuracy, "interval": of.interval} for size, of in results.items()}}
    return row | {"difference": {"value": paired.difference, "interval": paired.interval, "p_value": paired.p_value}}


def try_whitening(seed, data, **fields):
    """Accuracy on clean and on noisy images with a first layer that whitens, and with one that learns; a row."""
    row, severities = {"idea": "whitening", "seed": seed, "validation_images": len(data.validation)}, range(6)
    given = [cc.study.degrade.corrupt(data.validation.images, "gaussian_noise", severity) for severity in severities]
    for name in ("recipe", "no-whitening"):
        model, _, last = trained(IDEAS[name], seed, data, fields)
        row[name] = [cc.evaluate(model, (images, data.validation.labels)).accuracy for images in given]
    return row | {"hardware": last["hardware"]}


OTHERS = {"input-size": try_input_sizes, "whitening": try_whitening}


def missing(rows, names):
    """The (idea, seed) pairs that the rows lack, the recipe's own seeds first."""
    done = {(row["idea"], row["seed"]) for row in rows}
    wanted = [(name, seed) for name in names for seed in (SEEDS if name in ("recipe", "whitening") else SEEDS[:1])]
    return [pair for pair in sorted(wanted, key=lambda pair: pair[0] != "recipe") if pair not in done]


def noise(accuracies):
    """Within how much of the mean of these a further run would lie in 95 of 100 cases (Student's t)."""
    n = len(accuracies)
    return float(stats.t.ppf(0.975, n - 1) * np.std(accuracies, ddof=1) * np.sqrt(1 + 1 / n))


def recorded():
    """The rows of the record."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def input_sizes():
    """What the short runs at either input resolution had, as recorded."""
    return next(row for row in recorded() if row["idea"] == "input-size")


def worth(rows):
    """What the template tells: the recipe's own runs, their noise, and what each idea moved, the worst first."""
    own = [row for row in rows if row["idea"] == "recipe"]
    mean, band = np.mean([row["val_accuracy"] for row in own]), noise([row["val_accuracy"] for row in own])
    tried = [row | {"gain": row["val_accuracy"] - mean} for row in rows if row["idea"] not in ("recipe", *OTHERS)]
    for row in tried:
        row["verdict"] = "not shown" if abs(row["gain"]) <= band else "better" if row["gain"] > 0 else "worse"
    left = [idea.says for name, idea in IDEAS.items() if name not in {row["idea"] for row in rows}]
    return {"own": own, "mean": mean, "noise": band, "tried": sorted(tried, key=itemgetter("gain")), "left": left}


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


def on_two_cores(card):
    """The training by a card's recipe on two processor cores; without any, that of the released model."""
    rows = trainings(card)
    return next((row for row in rows if row["hardware"].startswith("2 cores")), rows[0])


def full_runs():
    """The CNN's full trainings: those by the released recipe, as its card has them, and those of the record."""
    card = cc.load_card("custom_cnn")
    alike = {"recipe": card["recipe"], "validation_images": card["validation"]["n"], "test_accuracy": None}
    rows = []
    for row in trainings(card):
        says = f"the released recipe with seed {row['seed']}, on {row['hardware'].split(',')[0]}"
        rows.append({**alike, **row, "says": says})
    rows[0] |= {"says": f"{rows[0]['says']}: the released model", "released": True}
    return rows + json.loads(FULL.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*IDEAS, *OTHERS]
    parser.add_argument("ideas", nargs="*", metavar="IDEA", help=f"default: all of {' '.join(names)}")
    given = parser.parse_args()
    if unknown := sorted(set(given.ideas) - set(names)):
        parser.error(f"no idea is called {', '.join(unknown)}; there are {' '.join(names)}")
    rows, data = recorded(), cc.load_cifar10()
    for name, seed in missing(rows, given.ideas or names):
        print(f"{name}, seed {seed}")
        rows.append(OTHERS[name](seed, data) if name in OTHERS else run(name, seed, data))
        write_json(RECORD, rows)


if __name__ == "__main__":
    main()
