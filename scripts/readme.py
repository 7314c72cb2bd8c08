"""Write the generated parts of README.md from the cards, the recorded predictions and what else was measured.

python scripts/readme.py
"""

import json
import re
from pathlib import Path

import bench
import experiments
import seeds
import study

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, SHIPPED
from cifar_compare.evaluation import proportion_interval
from cifar_compare.low_res import read

README = Path(__file__).resolve().parents[1] / "README.md"
TITLES = {"custom_cnn": "custom CNN, from scratch", "mobilenet_v2": "MobileNetV2, fine-tuned"}


def percent(share, digits=2):
    return f"{100 * share:.{digits}f}"


def results_table():
    """Both models on the test split, a row each."""
    rows = [
        "| model | test accuracy, % [95 % interval] | negative log-likelihood, nats "
        "| calibration error before → after temperature, % | weights, M | multiply-adds, M | epochs | training, min |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        card = cc.load_card(name)
        test, recipe = card["test"], card["recipe"]
        low, high = test["interval"]
        epochs = sum(epochs for epochs, _ in recipe["stages"])
        both = (experiments.trainings(card)[0], seeds.on_two_cores(card))
        told = dict.fromkeys(f"{row['seconds'] / 60:.0f} on {row['hardware'].split(',')[0]}" for row in both)
        rows.append(
            f"| {TITLES[name]} | **{percent(test['accuracy'])}** [{percent(low)}, {percent(high)}] "
            f"| {test['nll']:.3f} | {percent(test['ece_before_temperature'], 1)} → {percent(test['ece'], 1)} "
            f"| {card['parameters'] / 1e6:.2f} | {card['multiply_adds'] / 1e6:.0f} | {epochs} "
            f"| {'; '.join(told)} |"
        )
    return "\n".join(rows)


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


def seeds_sentence():
    """How far the validation accuracy of either recipe spreads, and where the released model was trained."""
    cards = {TITLES[name].split(",")[0]: cc.load_card(name) for name in NAMES}
    told = [f"{title}, {seeds.spread(card)}" for title, card in cards.items()]
    elsewhere = []
    for title, card in cards.items():
        if (row := seeds.on_two_cores(card))["hardware"] != card["hardware"]:
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


def working_size_sentence():
    """What the short runs said from which MobileNetV2's working size was chosen."""
    record = json.loads((README.parent / "results" / "working_size.json").read_text())
    runs = []
    for size, run in record["sizes"].items():
        low, high = (percent(end, 1) for end in run["interval"])
        runs.append(f"{percent(run['accuracy'], 1)} % [{low}, {high}] at {size} px")
    difference, low, high = (100 * x for x in (record["difference"]["value"], *record["difference"]["interval"]))
    short = f"{record['epochs']} epochs on {record['training_images']:,} images"
    return (
        f"MobileNetV2 works at {cc.load_card('mobilenet_v2')['working_size']} px. Short runs ({short}) had on the "
        f"{record['validation_images']:,} validation images {' and '.join(runs)}, "
        f"a difference of {difference:+.1f} points [{low:+.1f}, {high:+.1f}]."
    )


def entry_table():
    """What a detour over 1080 px costs through the entry, measured on the validation split."""
    rows = [
        "| model | entry | answers changed | accuracy, % (native) | reconstruction, dB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        lost = cc.load_card(name)["entry_loss"]
        for method in ("bicubic", "bilinear"):
            row = lost[method]
            rows.append(
                f"| {TITLES[name]} | {method} | {row['answers_changed']} of {lost['n']} "
                f"| {percent(row['accuracy'], 1)} ({percent(lost['native_accuracy'], 1)}) | {row['psnr_db']:.1f} |"
            )
    return "\n".join(rows)


def unlike_table():
    """What the threshold on the highest probability flags: of the test images wrongly, of strangers rightly."""

    def flagged(share, interval, n):
        low, high = interval
        return f"{percent(share, 1)} [{percent(low, 1)}, {percent(high, 1)}] of {n:,}"

    rows = [
        "| model | threshold, % | test images flagged, % | tiles of photographs flagged, % | digits flagged, % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        unlike, probabilities = cc.load_card(name)["unlike"], cc.load_predictions(name).probabilities
        n, below = len(probabilities), int((probabilities.max(axis=1) < unlike["threshold"]).sum())
        cells = [flagged(below / n, proportion_interval(below, n), n)]
        cells += [flagged(**unlike["caught"][kind]) for kind in ("photograph_tiles", "digits")]
        rows.append(f"| {TITLES[name]} | {percent(unlike['threshold'], 1)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def findings():
    """What the study of low resolution found."""
    return study.findings(read(study.TABLE))


def robust_sentence():
    """What the robust MobileNetV2 costs on ordinary images."""

    def epochs(card):
        stages = card["recipe"]["stages"]
        told = ", ".join(f"{epochs} at {size} px" for epochs, size in stages)
        return f"{sum(epochs for epochs, _ in stages)} epochs ({told})"

    usual, robust = (cc.load_card(name) for name in SHIPPED[1:])
    told = []
    for card in (robust, usual):
        low, high = card["validation"]["interval"]
        told.append(f"{percent(card['validation']['accuracy'])} % [{percent(low)}, {percent(high)}]")
    price = 100 * (robust["validation"]["accuracy"] - usual["validation"]["accuracy"])
    paired = cc.compare(cc.load_predictions(SHIPPED[2]), cc.load_predictions(SHIPPED[1]))
    low, high = (100 * end for end in paired.interval)
    test, ends, recipe = robust["test"], robust["test"]["interval"], robust["recipe"]
    return (
        f"The robust MobileNetV2 was trained for {epochs(robust)}, in place of {epochs(usual)}; its pictures were "
        f"enlarged by {', '.join(recipe['enlargements'])} in turn, and blurred by up to {recipe['blur']:g} px. Its "
        f"price on ordinary images: on the validation split {told[0]} against "
        f"{told[1]}, {price:+.2f} points; on the test split **{percent(test['accuracy'])}** % "
        f"[{percent(ends[0])}, {percent(ends[1])}], paired {100 * paired.difference:+.2f} points "
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
    "working_size": working_size_sentence,
    "entry": entry_table,
    "unlike": unlike_table,
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
    README.write_text(fill(README.read_text()))
