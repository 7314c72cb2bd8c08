"""Fill the templates in docs/templates/ with figures: README.md, and the pages of docs/.

    python scripts/readme.py

People write the sentences; Jinja2 puts figures of the cards, the recorded answers and results/ where `{{ }}` stands.
tests/test_results.py says what must be true of the figures for the sentences to be true.
"""

import json
import math
from pathlib import Path

import bench
import experiments
import jinja2
import numpy as np
import published
from data_efficiency import TABLE as FEW_TABLE
from PIL import Image
from scipy.stats import norm
from study import TABLE

import cifar_compare as cc
from cifar_compare import few_images
from cifar_compare.artefacts import NAMES, SHIPPED
from cifar_compare.evaluation import proportion_interval
from cifar_compare.system import write

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "docs" / "templates"
FIGURE, FEW = ROOT / "docs" / "handed.png", ROOT / "docs" / "few-images.png"
PAGE = ROOT / "results" / "demo.json"  # of scripts/demo_speed.py
BY_HAND = json.loads((ROOT / "results" / "by_hand.json").read_text())
BESIDE = ("Standard", "AugMix")  # models of RobustBench


def told(value, ends, unit=" %"):
    """A share in %, or a difference in points, and its 95 % interval, with the digits that the interval supports.

    The last digit is that of half the interval's width: 95.0 % where that is 0.4, but 34 % where it is 2.
    """
    digits = max(0, -math.floor(math.log10(50 * (ends[1] - ends[0])))) if ends[1] > ends[0] else 1
    value, *ends = (f"{round(100 * each, digits) + 0.0:.{digits}f}" for each in (value, *ends))  # never "-0.0"
    return f"{value}{unit}", f"[{', '.join(ends)}]"


def percent(share, digits=2):
    """A share from 0 to 1 as a figure in %, without the sign."""
    return f"{100 * share:.{digits}f}"


def interval(ends, digits=2):
    """Two ends of an interval, shares from 0 to 1, as figures in %."""
    return f"[{', '.join(percent(end, digits) for end in ends)}]"


def counted(share, n):
    """A share of n images with its interval, as figures in %."""
    return f"{percent(share)} {interval(proportion_interval(round(share * n), n))}"


def few(arm, size):
    """The accuracy of an arm with so many images a class, %: the mean over the draws, with the digits it deserves."""
    rows = [r for r in few_images.read(FEW_TABLE) if (r["arm"], r["images_a_class"]) == (arm, size)]
    ends = min(row["low"] for row in rows), max(row["high"] for row in rows)
    return told(float(np.mean([row["accuracy"] for row in rows])), ends)[0]


class Study:
    """Figures of the low-resolution study by "MODEL/CONDITION/ROUTE:FIGURE", and the rows that were asked for."""

    def __init__(self):
        self.rows, self.used = {row["id"]: row for row in cc.study.read(TABLE)}, {}

    def __call__(self, place):
        """A share, such as `accuracy`, or points `against_native` or the like; `behind_` turns their sign around."""
        name, figure = place.split(":")
        row = self.used[name] = self.rows[name]
        if figure in row:
            return told(row[figure], (row[f"{figure}_low"], row[f"{figure}_high"]))[0]
        sign, other = figure.split("_")
        value, *ends = ((-1) ** (sign == "behind") * row[f"minus_{other}{end}"] for end in ("", "_low", "_high"))
        return " ".join(told(value, sorted(ends), " points"))

    def damaged(self, kind=None):
        """The mean accuracy, %, over all severities of all kinds of damage, or of one, by model."""
        rows = [row for row in self.rows.values() if (row["study"], row["route"]) == ("corruption", "preprocessing")]
        rows = [row for row in rows if kind in (None, row["corruption"])]
        shares = {name: [row["accuracy"] for row in rows if row["model"] == name] for name in SHIPPED}
        return {name: round(100 * float(np.mean(found))) for name, found in shares.items() if found}

    def of_cifar_10_c(self, kinds=None):
        """The mean accuracy, %, at severities 1, 3 and 5 of kinds of CIFAR-10-C, or of all fifteen, by model.

        "Standard" and "AugMix" are RobustBench's.
        """
        found = {name: {kind: shares[::2] for kind, shares in BY_HAND["robustbench"][name].items()} for name in BESIDE}
        for row in self.rows.values():
            if (
                row["route"] == "preprocessing"
                and row["corruption"] in found["AugMix"]
                and row["severity"] in (1, 3, 5)
            ):
                found.setdefault(row["model"], {}).setdefault(row["corruption"], []).append(row["accuracy"])
        means = {name: [np.mean(by_kind[kind]) for kind in kinds or found["AugMix"]] for name, by_kind in found.items()}
        return {name: 100 * float(np.mean(each)) for name, each in means.items()}

    def leads(self):
        """Who leads, through the preprocessing, by condition of content and of corruption: a name of NAMES, or "".

        Corrected for their number (Holm 1979): none of the leads is luck, in 95 of 100 such studies.
        """
        rows = [row for row in self.rows.values() if (row["model"], row["route"]) == (NAMES[1], "preprocessing")]
        rows = [row for row in rows if row["study"] in ("content", "corruption")]
        errors = [(row["minus_first_high"] - row["minus_first_low"]) / (2 * norm.ppf(0.975)) for row in rows]
        chances = 2 * norm.sf(np.abs([row["minus_first"] for row in rows]) / errors)
        found = {}
        for i, place in enumerate(np.argsort(chances)):
            shown = chances[place] <= 0.05 / (len(rows) - i) and "" not in found.values()
            found[rows[place]["condition"]] = NAMES[int(rows[place]["minus_first"] > 0)] if shown else ""
        return found


def title(name):
    """What a person calls a model."""
    return (
        name.replace("custom_cnn", "custom CNN")
        .replace("mobilenet_v2", "MobileNetV2")
        .replace("_robust", ", robust")
        .replace("published_cnn", "published CNN")
        .replace("published_", "published ")
    )


def spread(card):
    """In words, mean and standard deviation of what all trainings by a card's recipe had on the validation split."""
    percents = 100 * np.array([row["validation_accuracy"] for row in experiments.trainings(card)])
    if len(percents) < 2:
        return "one training"
    mean, deviation = percents.mean(), percents.std(ddof=1)
    return f"validation: {mean:.1f}&nbsp;±&nbsp;{deviation:.1f}&nbsp;% over {len(percents)} trainings"


def selection(name):
    """The epoch of a published network's training that each split chooses, "val" and "test", and its `input_size`."""
    record, recipe = json.loads((published.RESULTS / f"{name}.json").read_text()), published.RECIPES[name]
    rows = {split: published.chosen(record["history"], split, recipe)[0] for split in ("val", "test")}
    return rows | {"input_size": record["input_size"]}


def minutes(card):
    """In words, how long the released model trained, and how long its recipe takes on two cores, how accurate then."""
    released, other = experiments.trainings(card)[0], experiments.on_two_cores(card)
    told = [f"{row['seconds'] / 60:.0f} min on {row['hardware'].split(',')[0]}" for row in (released, other)]
    accurate = f" ({percent(other['test_accuracy'], 1)}&nbsp;% then)" if "test_accuracy" in other else ""
    return told[0] if other == released else f"{told[0]}, {told[1]}{accurate}"


def operations(card, recipe):
    """Floating-point operations of a training: three times those of a forward pass, two for each multiply-add."""
    epochs = sum(epochs * (size / card["input_size"]) ** 2 for epochs, size in recipe.stages)
    return 3 * 2 * card["multiply_adds"] * (50_000 - card["validation"]["n"]) * epochs


def facts():
    """What the templates may tell, by the names that they use."""
    answers, timed = {name: cc.load_predictions(name) for name in SHIPPED}, json.loads(bench.RECORD.read_text())
    latency = {row["model"]: row["latency_ms"] for row in timed["inference"] if row["on"] == "TensorFlow"}
    told_by = {
        each.__name__: each
        for each in (
            told,
            few,
            title,
            spread,
            minutes,
            operations,
            selection,
            percent,
            interval,
            counted,
            proportion_interval,
        )
    }
    return told_by | {
        **{"cc": cc, "experiments": experiments, "study": Study()},
        **{"names": NAMES, "shipped": SHIPPED, "cards": {name: cc.load_card(name) for name in SHIPPED}},
        **{"answers": answers, "paired": cc.compare(*(answers[name] for name in reversed(NAMES)))},
        **{"timed": timed, "latency": latency, "few_images": few_images, "few_rows": few_images.read(FEW_TABLE)},
        **{"shown": Image.open(FIGURE).info["Description"], "few_shown": Image.open(FEW).info["Description"]},
        "by_hand": BY_HAND,
        "trucks": json.loads((ROOT / "results" / "trucks.json").read_text()),
        "page": json.loads(PAGE.read_text()) if PAGE.exists() else None,
    }


def environment(folder):
    """Jinja2 for the templates of a folder, where a name that is not there is an error."""
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "keep_trailing_newline": True}
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder), **options)


def filled():
    """The pages as they ought to be: dict of texts by path."""
    names, templates = sorted(path.name for path in TEMPLATES.glob("*.md")), environment(TEMPLATES)
    made = {name: templates.get_template(name).render(facts()) for name in names}
    return {ROOT / ("" if name == "README.md" else "docs") / name: text for name, text in made.items()}


if __name__ == "__main__":
    for path, text in filled().items():
        write(path, text)
