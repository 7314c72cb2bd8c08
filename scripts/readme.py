"""Write the generated parts of README.md from the cards, the recorded predictions and what else was measured.

python scripts/readme.py
"""

import json
import re
from pathlib import Path

import bench
import experiments
import numpy as np
import study
from markdown import interval, percent, table

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, SHIPPED
from cifar_compare.evaluation import proportion_interval
from cifar_compare.system import write

README = Path(__file__).resolve().parents[1] / "README.md"
TITLES = {"custom_cnn": "custom CNN, from scratch", "mobilenet_v2": "MobileNetV2, fine-tuned"}


def results_table():
    """Both models on the test split, a row each."""
    head = ["model", "test accuracy, % [95 % interval]", "negative log-likelihood, nats"]
    head += ["calibration error before → after temperature, %", "weights, M", "multiply-adds, M", "epochs"]
    rows = []
    for name in NAMES:
        card = cc.load_card(name)
        test = card["test"]
        both = (experiments.trainings(card)[0], experiments.on_two_cores(card))
        told = dict.fromkeys(f"{row['seconds'] / 60:.0f} on {row['hardware'].split(',')[0]}" for row in both)
        cells = [TITLES[name], f"**{percent(test['accuracy'])}** {interval(test['interval'])}", f"{test['nll']:.3f}"]
        cells += [f"{percent(test['ece_before_temperature'], 1)} → {percent(test['ece'], 1)}"]
        cells += [f"{card['parameters'] / 1e6:.2f}", f"{card['multiply_adds'] / 1e6:.0f}"]
        rows.append([*cells, sum(epochs for epochs, _ in card["recipe"]["stages"]), "; ".join(told)])
    return table([*head, "training, min"], rows)


def paired_sentence():
    """The paired comparison in words."""
    paired = cc.compare(cc.load_predictions("mobilenet_v2"), cc.load_predictions("custom_cnn"))
    low, high = paired.interval
    p_value = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    return (
        f"On the same {paired.n:,} test images MobileNetV2 is {100 * paired.difference:+.2f} points from the CNN "
        f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f}; McNemar's exact test, {p_value}): it alone is right on "
        f"{paired.only_a} images, the CNN alone on {paired.only_b}."
    )


def spread(card):
    """In words, what all trainings by a card's recipe had on the validation split; or that there is but one."""
    rows = experiments.trainings(card)
    percents = 100 * np.array([row["validation_accuracy"] for row in rows])
    if len(percents) < 2:
        return "only one seed was trained so far"
    return (
        f"mean {percents.mean():.2f} %, standard deviation {percents.std(ddof=1):.2f} points, "
        f"range {percents.min():.2f} to {percents.max():.2f} % "
        f"({len(percents)} trainings, of the seeds {', '.join(str(row['seed']) for row in rows)})"
    )


def seeds_sentence():
    """How far the validation accuracy of either recipe spreads, and where the released model was trained."""
    cards = {TITLES[name].split(",")[0]: cc.load_card(name) for name in NAMES}
    told = [f"{title}, {spread(card)}" for title, card in cards.items()]
    elsewhere = []
    for title, card in cards.items():
        if (row := experiments.on_two_cores(card))["hardware"] != card["hardware"]:
            test = f" and {percent(row['test_accuracy'])} % on the test split" if "test_accuracy" in row else ""
            elsewhere.append(
                f" The released {title} was trained on {card['hardware']}, in {card['training_seconds'] / 60:.0f} min. "
                f"The same recipe with seed {row['seed']} took {row['seconds'] / 60:.0f} min on {row['hardware']}, and "
                f"had {percent(row['validation_accuracy'])} % on the validation split{test}."
            )
    return f"How far the validation accuracy spreads from training to training: {'; '.join(told)}.{''.join(elsewhere)}"


def looks_sentence():
    """How often the test split was looked at, and what came of it before."""
    replaced = []
    for name in NAMES:
        earlier = cc.load_card(name)["earlier_test_accuracies"]
        figures = ", ".join(percent(accuracy) for accuracy in earlier)
        replaced += [f"{figures} % ({TITLES[name].split(',')[0]})"] if earlier else []
    before = f" Those that these replaced had {', '.join(replaced)}." if replaced else ""
    rows = [row for row in experiments.full_runs() if row["test_accuracy"] and not row.get("released")]
    unreleased = [percent(row["test_accuracy"]) for row in rows]
    also = f" It was also looked at for CNNs that were not released: {', '.join(unreleased)} %." if unreleased else ""
    once = "The test split was looked at once for each model that was released, after its recipe was settled."
    return once + before + also


def preprocessing_table():
    """What a detour over 1080 px costs through the preprocessing, measured on the validation split."""
    rows = []
    for name in NAMES:
        lost = cc.load_card(name)["preprocessing_loss"]
        for method in ("bicubic", "bilinear"):
            row = lost[method]
            accuracy = f"{percent(row['accuracy'], 1)} ({percent(lost['native_accuracy'], 1)})"
            changed = f"{row['answers_changed']} of {lost['n']}"
            rows.append([TITLES[name], method, changed, accuracy, f"{row['psnr_db']:.1f}"])
    return table(["model", "resized by", "answers changed", "accuracy, % (native)", "reconstruction, dB"], rows)


def out_of_distribution_table():
    """What the threshold on the highest probability flags: of the test images wrongly, of other pictures rightly."""

    def flagged(share, interval_, n):
        return f"{percent(share, 1)} {interval(interval_, 1)} of {n:,}"

    rows = []
    for name in NAMES:
        told, probabilities = cc.load_card(name)["out_of_distribution"], cc.load_predictions(name).probabilities
        n, below = len(probabilities), int((probabilities.max(axis=1) < told["threshold"]).sum())
        cells = [flagged(below / n, proportion_interval(below, n), n)]
        caught = [told["caught"][kind] for kind in ("photograph_tiles", "digits")]
        cells += [flagged(kind["share"], kind["interval"], kind["n"]) for kind in caught]
        rows.append([TITLES[name], percent(told["threshold"], 1), *cells])
    head = ["model", "threshold, %", "test images flagged, %", "tiles of photographs flagged, %", "digits flagged, %"]
    return table(head, rows)


def findings():
    """What the study of low resolution found."""
    return study.findings(cc.study.read(study.TABLE))


def robust_sentence():
    """What the robust MobileNetV2 costs on ordinary images."""

    def epochs(card):
        stages = card["recipe"]["stages"]
        told = ", ".join(f"{epochs} at {size} px" for epochs, size in stages)
        return f"{sum(epochs for epochs, _ in stages)} epochs ({told})"

    usual, robust = (cc.load_card(name) for name in SHIPPED[1:])
    told = []
    for card in (robust, usual):
        told.append(f"{percent(card['validation']['accuracy'])} % {interval(card['validation']['interval'])}")
    price = 100 * (robust["validation"]["accuracy"] - usual["validation"]["accuracy"])
    paired = cc.compare(cc.load_predictions(SHIPPED[2]), cc.load_predictions(SHIPPED[1]))
    low, high = (100 * end for end in paired.interval)
    test, recipe = robust["test"], robust["recipe"]
    return (
        f"The robust MobileNetV2 was trained for {epochs(robust)}, in place of {epochs(usual)}; its pictures were "
        f"enlarged by {', '.join(recipe['enlargements'])} in turn, and blurred by up to "
        f"{recipe['augmentation']['blur']:g} px. Its "
        f"price on ordinary images: on the validation split {told[0]} against "
        f"{told[1]}, {price:+.2f} points; on the test split **{percent(test['accuracy'])}** % "
        f"{interval(test['interval'])}, paired {100 * paired.difference:+.2f} points "
        f"[{low:+.2f}, {high:+.2f}]."
    )


def bench_tables():
    """What `make bench` measured last."""
    return bench.tables(json.loads(bench.RECORD.read_text()))


PARTS = {
    "results": results_table,
    "paired": paired_sentence,
    "seeds": seeds_sentence,
    "looks": looks_sentence,
    "input_size": lambda: experiments.input_size_sentence(json.loads(experiments.RECORD.read_text())),
    "preprocessing": preprocessing_table,
    "out_of_distribution": out_of_distribution_table,
    "low_res": findings,
    "robust": robust_sentence,
    "bench": bench_tables,
}


def fill(text):
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` by the generated part of that name."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"README.md must hold <!-- {name} --> and <!-- /{name} --> exactly once")
        made = make()
        text = pattern.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    write(README, fill(README.read_text()))
