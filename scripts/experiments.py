"""Try ideas for the custom CNN one at a time, in a short schedule, and say what each was worth.

    python scripts/experiments.py [IDEA ...]   train what results/experiments.json lacks; go on where it was stopped
    python scripts/experiments.py --page       write docs/experiments.md from that file and results/full_runs.json

Measured on the validation split. Every run differs in one thing from the recipe in short, which is run with three
seeds: their spread is the noise that an idea has to get out of. The input resolution of MobileNetV2 was tried likewise.
The record has rows of ideas whose code is gone, because they were worth nothing: Muon, and a deeper network.
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
from markdown import interval, percent, table
from scipy import stats

from cifar_compare.evaluation import proportion_interval
from cifar_compare.recipes import describe
from cifar_compare.roles import parts
from cifar_compare.system import write, write_json

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "results" / "experiments.json", ROOT / "docs" / "experiments.md"
FULL = ROOT / "results" / "full_runs.json"  # by other recipes than today's, added by hand; "released" where that was
WIDTHS = (64, 256, 256)  # half of the recipe's time
SEEDS = (0, 1, 2)  # of the recipe itself; an idea is run with the first
INPUT_SIZES = (96, 128)  # px, of MobileNetV2, each tried for two epochs on a tenth of the training images


def short_recipe(**fields):
    """The custom CNN's recipe in short, or one that differs from it in the given fields."""
    short = {
        "stages": ((4, 24), (2, 32)),
        "averaging": (1, 0.08),
        "augmentation": partial(cc.augment, shift=4, cutout=10),
    }
    return dataclasses.replace(cc.RECIPES["custom_cnn"], **(short | fields))


RECIPE = short_recipe()


def optimizer(**options):
    """The recipe's optimizer, with other options."""
    return partial(RECIPE.optimizer.func, **(RECIPE.optimizer.keywords | options))


def augmentation(**options):
    """The recipe's augmentation, with other options."""
    return partial(cc.augment, **(RECIPE.augmentation.keywords | options))


def flip_at_random(images, labels, random):
    """Mirror by a coin, on top of the recipe's augmentation: after every second epoch's flip that is a coin as well."""
    images, labels = RECIPE.augmentation(images, labels, random)
    return np.where(random.integers(2, size=(len(images), 1, 1, 1)), images, images[:, :, ::-1]), labels


def mix_up(images, labels, random):
    """Mix each image and its label with another's (Zhang et al. 2018, arXiv:1710.09412), alpha 0.2, without cutout."""
    images, labels = augmentation(cutout=0)(images, labels, random)
    share = random.beta(0.2, 0.2, size=len(images)).astype("float32")
    other, rest = random.permutation(len(images)), 1 - share
    images = share[:, None, None, None] * images + rest[:, None, None, None] * images[other]
    return images, share[:, None] * labels + rest[:, None] * labels[other]


@cache
def teacher():
    return cc.load_model("mobilenet_v2")


def teach(images, labels, random):
    """Let half of every label be what MobileNetV2 answers to the image (Hinton et al. 2015, arXiv:1503.02531)."""
    answers = np.asarray(teacher().predict_on_batch(images))
    images, labels = RECIPE.augmentation(images, labels, random)
    return images, (labels + answers) / 2


def build_plain_start(seed):
    """The CNN, its 3×3 kernels drawn anew as they were before they were made to pass their input through."""
    model = cc.build_custom_cnn(seed, WIDTHS)
    for layer in parts(model)[1].layers:
        if layer.name.startswith("conv"):
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
    return model


def build_learning_first_layer(seed):
    """The CNN, its first layer drawn at random and learnt: `train` fills only a first layer that does not learn."""
    model = cc.build_custom_cnn(seed, WIDTHS)
    parts(model)[1].get_layer("whiten").kernel.trainable = True
    return model


def build_with(activation, seed):
    """The CNN with another activation in place of GELU."""
    model = cc.build_custom_cnn(seed, WIDTHS)
    for layer in parts(model)[1].layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.get(activation)
    return model


@dataclasses.dataclass(frozen=True)
class Idea:
    """One change: of fields of the recipe, or of how the network is built."""

    says: str
    fields: dict = dataclasses.field(default_factory=dict)
    build: object = partial(cc.build_custom_cnn, widths=WIDTHS)  # called with the seed


IDEAS = {
    "recipe": Idea("nothing: the recipe in short"),
    "no-whitening": Idea("first layer drawn at random and learnt", build=build_learning_first_layer),
    "no-identity": Idea("3×3 kernels start at random, none as the identity", build=build_plain_start),
    "relu": Idea("ReLU in place of GELU", build=partial(build_with, "relu")),
    "silu": Idea("SiLU in place of GELU", build=partial(build_with, "silu")),
    "equal-rates": Idea("biases learn no faster than weights", {"optimizer": optimizer(bias_factor=1.0)}),
    "no-decay": Idea("no weight decay", {"optimizer": optimizer(weight_decay=0.0)}),
    "no-averaging": Idea("the last epoch goes down to zero, nothing is averaged", {"averaging": None}),
    "random-flip": Idea("mirrored by a coin, not every second epoch", {"augmentation": flip_at_random}),
    "no-cutout": Idea("no cutout", {"augmentation": augmentation(cutout=0)}),
    "mixup": Idea("mixup in place of cutout", {"augmentation": mix_up}),
    "distillation": Idea("half of every label is MobileNetV2's answer to the image", {"augmentation": teach}),
    "small-shift": Idea("shifts of up to 2 px, not 4", {"augmentation": augmentation(shift=2)}),
    "no-smoothing": Idea("no label smoothing", {"label_smoothing": 0.0}),
    "full-size": Idea("all at 32 px, in about the same time", {"stages": ((4, 32),)}),
    "wider": Idea("widths 128-384-384, as in the full recipe", build=cc.build_custom_cnn),
    "longer": Idea("twice the epochs", {"stages": ((8, 24), (4, 32))}),
    "adamw": Idea(
        "AdamW at 2e-3 with a decay of 0.05, in place of SGD",
        {"optimizer": partial(keras.optimizers.AdamW, weight_decay=0.05), "learning_rate": 2e-3},
    ),
}


def run(name, seed, data, **fields):
    """Train one idea with one seed, and with further fields for tests; its row for the record."""
    recipe = short_recipe(**{**fields, **IDEAS[name].fields, "seed": seed})
    model = IDEAS[name].build(seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        history = cc.train(model, data, recipe, folder)
    return {
        "idea": name,
        "says": IDEAS[name].says,
        "seed": seed,
        "val_accuracy": history[-1]["val_accuracy"],
        "val_loss": history[-1]["val_loss"],
        "accuracy": history[-1]["accuracy"],
        "validation_images": len(data.validation),
        "training_images": len(data.train),
        "seconds": time.perf_counter() - start,
        "hardware": history[-1]["hardware"],
        "recipe": {key: value for key, value in describe(recipe).items() if not key.startswith("expected_")},
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


def try_input_sizes(data, **fields):
    """MobileNetV2 after a short training at either input resolution; the row for the record."""
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:450] for label in range(10)])
    few = cc.Split(data.train.images[chosen], data.train.labels[chosen])
    results = []
    for size in INPUT_SIZES:
        recipe = dataclasses.replace(cc.RECIPES["mobilenet_v2"], **({"stages": ((2, size),)} | fields))
        model = cc.build_mobilenet_v2(input_size=size)
        with tempfile.TemporaryDirectory() as folder:
            cc.train(model, dataclasses.replace(data, train=few), recipe, folder)
        results.append(cc.evaluate(model, data.validation))
    paired = cc.compare(*reversed(results))
    return {
        "idea": "input-size",
        "seed": 0,
        "training_images": len(few),
        "epochs": recipe.epochs,
        "validation_images": len(data.validation),
        "sizes": {
            str(size): {"accuracy": result.accuracy, "interval": result.interval}
            for size, result in zip(INPUT_SIZES, results, strict=True)
        },
        "difference": {"value": paired.difference, "interval": paired.interval, "p_value": paired.p_value},
    }


def input_size_sentence(rows):
    """What the short runs said, from which MobileNetV2's input resolution was chosen."""
    row = next(row for row in rows if row["idea"] == "input-size")
    told = [
        f"{percent(run['accuracy'], 1)} % {interval(run['interval'], 1)} at {size} px"
        for size, run in row["sizes"].items()
    ]
    difference, low, high = (100 * x for x in (row["difference"]["value"], *row["difference"]["interval"]))
    return (
        f"MobileNetV2's input resolution is {cc.load_card('mobilenet_v2')['input_size']} px. Short runs "
        f"({row['epochs']} epochs on {row['training_images']:,} images) had on the {row['validation_images']:,} "
        f"validation images {' and '.join(told)}, a difference of {difference:+.1f} points [{low:+.1f}, {high:+.1f}]."
    )


def page(rows, full):
    """The tables of what each idea was worth in short, and of what was tried in full, in Markdown."""
    own = [row["val_accuracy"] for row in rows if row["idea"] == "recipe"]
    if len(own) < len(SEEDS):
        raise SystemExit(
            f"{RECORD} holds {len(own)} of {len(SEEDS)} runs of the recipe itself, without which there is no noise to "
            "compare with; run `python scripts/experiments.py recipe` first"
        )
    band, mean = noise(own), np.mean(own)
    first = next(row for row in rows if row["idea"] == "recipe")
    stages = " and ".join(f"{epochs} epochs at {size} px" for epochs, size in first["recipe"]["stages"])
    lines = [
        "# What each idea was worth",
        "Written by `python scripts/experiments.py --page` from `results/experiments.json` and "
        "`results/full_runs.json`; do not edit by hand.",
        f"Each row changes one thing in the custom CNN's recipe in short ({stages}, cutout of "
        f"{first['recipe']['augmentation']['cutout']} px, widths "
        f"{'-'.join(map(str, WIDTHS))}) and is measured on the {first['validation_images']:,} validation images. "
        f"The recipe itself had, with {len(own)} seeds, {', '.join(percent(x) for x in own)} %: a mean of "
        f"{percent(mean)} %, a standard deviation of {percent(np.std(own, ddof=1))} points. A further run of the "
        f"same recipe would lie within {percent(band)} points of that mean in 95 of 100 cases, so that only what "
        "moves it by more was shown to matter. What helps in short need not help in full.",
    ]
    head = ["change", "validation accuracy, %", "against the recipe, points", "beyond the noise"]
    head += ["training accuracy, %", "min"]
    body = []
    tried = [row for row in rows if row["idea"] not in ("recipe", "input-size")]
    for row in sorted(tried, key=itemgetter("val_accuracy")):
        difference = row["val_accuracy"] - mean
        word = "no" if abs(difference) <= band else "better" if difference > 0 else "worse"
        cells = [row["says"], percent(row["val_accuracy"]), f"{100 * difference:+.2f}", word]
        body.append([*cells, percent(row["accuracy"]), f"{row['seconds'] / 60:.0f}"])
    lines.append(table(head, body))
    if left := [idea.says for name, idea in IDEAS.items() if name not in {row["idea"] for row in rows}]:
        lines.append(f"Not run yet: {'; '.join(left)}.")
    if any(row["idea"] == "input-size" for row in rows):
        lines.append(input_size_sentence(rows))
    lines += [
        "## In full",
        "What was trained in the time that is allowed, a training a row. Training and validation accuracy are those of "
        "the last epoch, the latter in the precision of the training or in float32. The last column "
        "is there where the test split was looked at, after the training and its validation.",
    ]
    body = []
    for row in full:
        measured = [
            f"{percent(share)} {interval(proportion_interval(round(share * n), n))}"
            for share, n in ((row["val_accuracy"], row["validation_images"]), (row["test_accuracy"], 10_000))
            if share is not None
        ]
        epochs = sum(count for count, _ in row["recipe"]["stages"])
        body.append([row["says"], epochs, f"{row['seconds'] / 60:.0f}", percent(row["accuracy"]), *[*measured, ""][:2]])
    head = ["recipe", "epochs", "min", "training accuracy, %", "validation accuracy, %", "test accuracy, %"]
    machines = dict.fromkeys(row["hardware"] for row in rows if "hardware" in row)
    return "\n\n".join([*lines, table(head, body), f"Machine: {'; '.join(machines)}.\n"])


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
    names = [*IDEAS, "input-size"]
    parser.add_argument("ideas", nargs="*", metavar="IDEA", help=f"default: all of {' '.join(names)}")
    parser.add_argument("--page", action="store_true", help="write the page and stop")
    given = parser.parse_args()
    if unknown := sorted(set(given.ideas) - set(names)):
        parser.error(f"no idea is called {', '.join(unknown)}; there are {' '.join(names)}")
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
    if given.page:
        PAGE.parent.mkdir(exist_ok=True)
        write(PAGE, page(rows, full_runs()))
        return
    data = cc.load_cifar10()
    for name, seed in missing(rows, given.ideas or names):
        print(f"{name}, seed {seed}")
        rows.append(try_input_sizes(data) if name == "input-size" else run(name, seed, data))
        write_json(RECORD, rows)


if __name__ == "__main__":
    main()
