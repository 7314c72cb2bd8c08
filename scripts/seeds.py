"""Train a released recipe with further seeds, and note on its card how far they spread.

    python scripts/seeds.py NAME SEED [SEED ...] [--runs runs]

A seed decides the initial weights, the order of the images and the augmentation. Resumes where an earlier call was
interrupted. Measured on the validation split; the test split is for what is released.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from experiments import trainings, write

import cifar_compare as cc
from cifar_compare.training import _as_json

MODELS = Path(__file__).resolve().parents[1] / "models"


def on_two_cores(card):
    """The training by a card's recipe on two processor cores; without any, that of the released model."""
    rows = trainings(card)
    return next((row for row in rows if row["hardware"].startswith("2 cores")), rows[0])


def spread(card):
    """In words, what all trainings by a card's recipe had on the validation split; or that there is but one."""
    rows = trainings(card)
    percents = 100 * np.array([row["validation_accuracy"] for row in rows])
    if len(percents) < 2:
        return "only one seed was trained so far"
    return (
        f"mean {percents.mean():.2f} %, standard deviation {percents.std(ddof=1):.2f} points, "
        f"range {percents.min():.2f} to {percents.max():.2f} % "
        f"({len(percents)} trainings, of the seeds {', '.join(str(row['seed']) for row in rows)})"
    )


def add(name, seed, data, runs):
    """Train with one more seed, measure, and put the row onto the card, in place of an earlier one of that seed."""
    path, recipe = MODELS / f"{name}.json", cc.RECIPES[name]
    released = json.loads(path.read_text())["recipe"]
    if seed == released["seed"]:
        raise SystemExit(f"seed {seed} is the released one; give others")
    if any(released.get(field) != value for field, value in _as_json(recipe).items()):
        raise SystemExit(f"{path} tells of another recipe; run `python scripts/train.py {name}` and measure it first")
    model = cc.build_custom_cnn(seed) if name == "custom_cnn" else cc.build_mobilenet_v2(seed=seed)
    history = cc.train(model, data, dataclasses.replace(recipe, seed=seed), Path(runs) / f"{name}-seed{seed}")
    row = {
        "seed": seed,
        "training_accuracy": history[-1]["accuracy"],
        "validation_accuracy": cc.evaluate(model, data.validation).accuracy,
        "seconds": sum(epoch["seconds"] for epoch in history),
        "hardware": history[-1]["hardware"],
    }
    card = json.loads(path.read_text())  # anew, because hours have passed
    others = [other for other in card.get("seeds", []) if other["seed"] != seed]
    card["seeds"] = sorted([*others, row], key=lambda other: other["seed"])
    write(path, card)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(cc.RECIPES))
    parser.add_argument("seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--runs", default="runs", help="folder of the checkpoints (default: %(default)s)")
    given = parser.parse_args()
    cifar10 = cc.load_cifar10()
    for each in given.seeds:
        print(add(given.name, each, cifar10, given.runs))
