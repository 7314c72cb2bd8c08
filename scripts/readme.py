"""Write the generated parts of README.md from the cards and the recorded predictions.

python scripts/readme.py
"""

import re
from pathlib import Path

import cifar_compare as cc
from cifar_compare.artefacts import NAMES

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
        rows.append(
            f"| {TITLES[name]} | **{percent(test['accuracy'])}** [{percent(low)}, {percent(high)}] "
            f"| {test['nll']:.3f} | {percent(test['ece_before_temperature'], 1)} → {percent(test['ece'], 1)} "
            f"| {card['parameters'] / 1e6:.2f} | {card['multiply_adds'] / 1e6:.0f} | {epochs} "
            f"| {card['training_seconds'] / 60:.0f} |"
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


PARTS = {"results": results_table, "paired": paired_sentence, "entry": entry_table}


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
