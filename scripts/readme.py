"""Fill the templates in docs/templates/ with figures: README.md, and the pages of docs/ beside it.

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
from PIL import Image
from study import TABLE

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, SHIPPED
from cifar_compare.evaluation import proportion_interval
from cifar_compare.system import write

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES, FIGURE = ROOT / "docs" / "templates", ROOT / "docs" / "handed.png"
KINDS = {"custom_cnn": "custom CNN", "mobilenet_v2": "MobileNetV2"}


def told(value, ends, unit=" %"):
    """A share in %, or a difference in points, with the digits that its 95 % interval supports.

    The last digit is that of half the interval's width: 95.0 % where that is 0.4, but 34 % where it is 2.
    """
    digits = max(0, -math.floor(math.log10(50 * (ends[1] - ends[0])))) if ends[1] > ends[0] else 1
    return f"{100 * value:.{digits}f}{unit}", f"[{', '.join(f'{100 * end:.{digits}f}' for end in sorted(ends))}]"


def percent(share, digits=2):
    """A share from 0 to 1 as a figure in %, without the sign."""
    return f"{100 * share:.{digits}f}"


def interval(ends, digits=2):
    """Two ends of an interval, shares from 0 to 1, as figures in %."""
    return f"[{', '.join(percent(end, digits) for end in ends)}]"


def counted(share, n):
    """A share of n images with its interval, as figures in %."""
    return f"{percent(share)} {interval(proportion_interval(round(share * n), n))}"


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
        sign, other = (-1 if figure.startswith("behind_") else 1), figure.split("_", 1)[1]
        value, *ends = (sign * row[f"minus_{other}{end}"] for end in ("", "_low", "_high"))
        return " ".join(told(value, sorted(ends), " points"))

    def damaged(self, name):
        """The model's mean accuracy, %, over all kinds of damage and severities; None where it was not measured."""
        found = [r for r in self.rows.values() if (r["model"], r["study"]) == (name, "corruption")]
        shares = [row["accuracy"] for row in found if row["route"] == "preprocessing"]
        return round(100 * float(np.mean(shares))) if shares else None


def spread(card):
    """In words, mean and standard deviation of what all trainings by a card's recipe had on the validation split."""
    percents = 100 * np.array([row["validation_accuracy"] for row in experiments.trainings(card)])
    if len(percents) < 2:
        return "one training"
    return f"{percents.mean():.1f} ± {percents.std(ddof=1):.1f} % over {len(percents)} trainings"


def minutes(card):
    """In words, how long the released model trained, and how long its recipe takes on two cores."""
    rows = (experiments.trainings(card)[0], experiments.on_two_cores(card))
    return ", ".join(dict.fromkeys(f"{row['seconds'] / 60:.0f} min on {row['hardware'].split(',')[0]}" for row in rows))


def facts():
    """What the templates may tell."""
    record, study = json.loads(bench.RECORD.read_text()), Study()
    answers = {name: cc.load_predictions(name) for name in SHIPPED}
    damaged = {name: study.damaged(name) for name in SHIPPED}
    with Image.open(FIGURE) as image:
        shown = image.info["Description"]
    return {
        **{"names": NAMES, "shipped": SHIPPED, "cards": {name: cc.load_card(name) for name in SHIPPED}},
        **{"answers": answers, "study": study, "bench": record},
        **{"experiments": experiments, "cc": cc, "published": json.loads(bench.PUBLISHED.read_text()), "shown": shown},
        "title": lambda name: KINDS[name.removesuffix("_robust")] + ", robust" * name.endswith("_robust"),
        "latency": {row["model"]: row["latency_ms"] for row in record["inference"] if row["on"] == "TensorFlow"},
        "flagged": lambda name, below: proportion_interval(below, len(answers[name].labels)),
        "damaged": {name: share for name, share in damaged.items() if share is not None},
        "paired": cc.compare(answers["mobilenet_v2"], answers["custom_cnn"]),
        "by_hand": json.loads((ROOT / "results" / "by_hand.json").read_text()),
        **{f.__name__: f for f in (told, spread, minutes, interval, percent, counted, cc.compare)},
    }


def environment(folder):
    """Jinja2 for the templates of a folder: a name that is not there is an error."""
    loader = jinja2.FileSystemLoader(folder)
    return jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )


def filled():
    """The pages as they ought to be: dict of texts by path."""
    names, templates = sorted(path.name for path in TEMPLATES.glob("*.md")), environment(TEMPLATES)
    return {
        ROOT / ("" if name == "README.md" else "docs") / name: templates.get_template(name).render(facts())
        for name in names
    }


if __name__ == "__main__":
    for path, text in filled().items():
        write(path, text)
