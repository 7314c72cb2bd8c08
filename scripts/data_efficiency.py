"""Fill results/data_efficiency.csv: how accurate each way of training is with few labelled images.

    python scripts/data_efficiency.py            every cell that the table lacks, whole draws first (hours; resumes)
    python scripts/data_efficiency.py --choose   the search for the rule STEPS, into results/data_efficiency_rule.csv

Needs CIFAR-10. As many trainings run side by side as there are processor cores, each on one core. The training sets are
nested: those of one draw are the first images of each class in an order that the images' digests and the draw decide.
Everything is chosen without the test split, on which each cell is measured once.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import io
import math
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import cifar_compare as cc
from cifar_compare import few_images
from cifar_compare.artefacts import NAMES
from cifar_compare.few_images import ARMS, BATCH
from cifar_compare.hardware import hardware
from cifar_compare.system import write

RESULTS = Path(__file__).resolve().parents[1] / "results"
TABLE, RULE = RESULTS / "data_efficiency.csv", RESULTS / "data_efficiency_rule.csv"
SIZES = (10, 50, 100, 500, 1000, 25, 250, 4500)  # images a class, in the order in which they are measured
HALF, HALF_SIZES = "mobilenet_v2_upper_half", (10, 100, 1000)  # do the lower layers need to learn?
CANDIDATES, CHOSEN_ON = (10, 20), 50  # values of `few_images.STEPS`; images a class


def draws(size):
    """How many training sets of a size there are."""
    return 5 if size <= 100 else 3 if size < max(SIZES) else 1


def train_cell(arm, data, draw, steps):
    """Train one cell; its answers to `data.test`, the number of steps and the seconds they took."""
    model, start = few_images.new_model(arm, draw), time.perf_counter()
    if arm == "mobilenet_v2_head":
        few_images.fit_last_layer(model, data.train)
        taken, seconds = 0, time.perf_counter() - start
    else:
        recipe = few_images.recipe(arm, len(data.train), draw, steps)
        # For the log alone: nothing is chosen by it, and a person with few images has none to spare.
        watched = dataclasses.replace(data, validation=few_images.part_of(data.train, slice(0, 10)))
        with tempfile.TemporaryDirectory() as folder:  # what is interrupted begins anew: a cell takes minutes
            history = cc.train(model, watched, recipe, folder)
        taken, seconds = recipe.epochs * -(-len(data.train) // BATCH), sum(epoch["seconds"] for epoch in history)
    return cc.evaluate(model, data.test), taken, seconds


def cells():
    """(size, arm, draw), so that every draw is complete before the next begins."""
    of_all = [(size, arm) for size in SIZES for arm in ARMS if arm != HALF and not is_released(size, arm)]
    for draw in range(max(map(draws, SIZES))):
        for size, arm in of_all + [(size, HALF) for size in HALF_SIZES]:
            if draw < draws(size):
                yield size, arm, draw


def is_released(size, arm):
    """Whether a cell is a released model, which was trained on all images by a recipe of its own."""
    return size == max(SIZES) and arm in NAMES


def released(name):
    """The row of a released model, as its card tells it."""
    card, size = cc.load_card(name), max(SIZES)
    steps = sum(epochs for epochs, _ in card["recipe"]["stages"]) * (10 * size // card["recipe"]["batch_size"])
    test = card["test"]
    told = (size, name, 0, steps, test["accuracy"], *test["interval"], card["training_seconds"], card["hardware"])
    return dict(zip(few_images.COLUMNS, told, strict=True))


def expected_seconds(rows, arm, size):
    """How long a cell will take on one core, from cells of the same arm that are there; NaN where none is."""
    rates = [row["seconds"] / row["images_a_class"] ** 0.5 for row in rows if row["arm"] == arm]
    return float(np.mean(rates)) * size**0.5 if rates else math.nan


def measure(size, arm, draw, data):
    """One row of the table."""
    data = dataclasses.replace(data, train=few_images.training_set(data.train, size, draw))
    result, steps, seconds = train_cell(arm, data, draw, few_images.STEPS)
    told = (size, arm, draw, steps, result.accuracy, *result.interval, seconds, f"1 of {hardware()}")
    return dict(zip(few_images.COLUMNS, told, strict=True))


def measure_cell(cell, until):
    """The row of a cell of CIFAR-10, or None where it is later than `until`."""
    return measure(*cell, cc.load_cifar10()) if time.time() < until else None


def try_rule(steps, arm):
    """The row for one candidate of `few_images.STEPS`: its accuracy on a fifth of a training set, which is held out."""
    data = cc.load_cifar10()
    part, rest = few_images.held_out(few_images.training_set(data.train, CHOSEN_ON))
    data = dataclasses.replace(data, train=part, test=rest)
    result, taken_steps, seconds = train_cell(arm, data, 0, steps)
    found = {"accuracy": result.accuracy, "low": result.interval[0], "high": result.interval[1], "seconds": seconds}
    return {"candidate": steps, "arm": arm, "steps": taken_steps, "n": len(rest), **found}


def side_by_side(function, calls):
    """Yield what `function` returns for each of the arguments, as it comes: each call in a process and on a core."""
    os.environ.update(dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), "1"))  # read by new processes
    with concurrent.futures.ProcessPoolExecutor(
        os.cpu_count(), multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        for done in concurrent.futures.as_completed([pool.submit(function, *call) for call in calls]):
            yield done.result()


def save(path, rows):
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(path, text.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="search for the rule")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so long")
    given = parser.parse_args()
    until = time.time() + 60 * given.minutes
    if given.choose:
        arms = ("custom_cnn", "mobilenet_v2")
        calls = [(steps, arm) for steps in CANDIDATES for arm in arms]
        rows = []
        for row in side_by_side(try_rule, calls):
            rows.append(row)
            save(RULE, sorted(rows, key=lambda row: (arms.index(row["arm"]), row["candidate"])))
        return
    rows = [row for row in few_images.read(TABLE) if not is_released(row["images_a_class"], row["arm"])]
    there = {(row["images_a_class"], row["arm"], row["draw"]) for row in rows}
    missing = [cell for cell in cells() if cell not in there]
    hours = sum(expected_seconds(rows, arm, size) for size, arm, _ in missing) / os.cpu_count() / 3600
    print(
        f"{len(there)} cells are there; {len(missing)} are missing, about {hours:.1f} hours on {os.cpu_count()} cores"
    )
    rows += map(released, NAMES)
    for row in filter(None, side_by_side(measure_cell, [(cell, until) for cell in missing])):
        rows.append(row)
        print(row)
        save(TABLE, sorted(rows, key=lambda row: (row["images_a_class"], [*ARMS].index(row["arm"]), row["draw"])))


if __name__ == "__main__":
    main()
