"""Fill results/low_res_study.csv: what low resolution costs the models, a row for each condition and each route.

    python scripts/study.py                 under an hour on two cores; goes on where it was interrupted
    python scripts/study.py --model FILE    a model of your own: the part about delivery, into NAME.low_res.csv
    python scripts/study.py --findings      what the table says, in the README's words

Needs CIFAR-10, except for the findings. Rows that are there already, for the same model file and settings, are kept.
"""

import argparse
from operator import itemgetter
from pathlib import Path

import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED, verify

TABLE = Path(__file__).resolve().parents[1] / "results" / "low_res_study.csv"
CNN, MOBILENET, ROBUST = SHIPPED
HELD = 0.02  # of accuracy: what loses no more, by its interval, is said to hold
LEADS = {1: "MobileNetV2 leads", 0: "no lead was shown", -1: "the CNN leads"}
CORRUPTIONS = {name: name.replace("_", " ").capitalize() for name in cc.study.degrade.SEVERITIES} | {"jpeg": "JPEG"}
BY_ROUTE = {"preprocessing": "Through the preprocessing", "bypass-bilinear": "Bypassing it, by bilinear"}


class Row(dict):
    """A row of the table that tells its figures: `f"{row:accuracy}"`; `f"{row}"` cites it."""

    def __format__(self, field):
        if not field:
            return f"(`{self['id']}`)"
        if f"minus_{field}" not in self:
            return f"{100 * self[field]:.1f} %"
        middle, low, high = (100 * self[f"minus_{field}{end}"] for end in ("", "_low", "_high"))
        return f"{middle:+.1f} points [{low:+.1f}, {high:+.1f}]"

    def leader(self):
        """The key of LEADS that the interval of the difference between both models stands for."""
        return int(self["minus_first_low"] > 0) - int(self["minus_first_high"] < 0)


def findings(rows):
    """What the rows say, in Markdown: every sentence names its rows, and is right whichever way they went."""
    of = {row["id"]: Row(row) for row in rows}
    told = [*_published(of), _blocks(of), _preprocessing(of), _noise(of), *_order(of), *_robust(of)]
    confident = f"{100 * cc.study.CONFIDENT:.0f} %"
    note = f"*Confidently wrong* means wrong with a probability of at least {confident}, *points* are of accuracy."
    return "\n".join([note, "", *(f"- {each}" for each in told)])


def _published(of):
    """What bypassing the preprocessing makes of the published situation."""
    for condition, what, route, size in (
        ("published", "pictures", "bypass-nearest", "its input resolution"),
        ("published-truck", "trucks", "bypass-nearest", "its input resolution"),
        ("published-truck", "trucks", "bypass-nearest-224", "224 px, a size that it was not trained at"),
    ):
        row, through = of[f"{MOBILENET}/{condition}/{route}"], of[f"{MOBILENET}/{condition}/preprocessing"]
        yield (
            f"**Published {what}, resized straight to {size}.** Of {row['n']:,} {what} of 30×30 px, enlarged to "
            f"1080 px and resized by nearest, MobileNetV2 gets {row:accuracy} right and {row:confident_errors} "
            f"confidently wrong {row}. Of the same pictures through its preprocessing it gets {through:accuracy} right "
            f"and {through:confident_errors} confidently wrong {through}. Bypassing the preprocessing makes "
            f"{row:preprocessing}, of {row:native} in all against native images {row}."
        )


def _blocks(of):
    """Whether bypassing the preprocessing does it alone, or enlargement, or blocks."""
    smooth, blocky = (of[f"{MOBILENET}/1080-{method}/bypass-nearest"] for method in ("bicubic", "nearest"))
    made, through = of[f"{MOBILENET}/native/bypass-nearest"], of[f"{MOBILENET}/1080-nearest/preprocessing"]
    harmless = min(row["minus_native_low"] for row in (smooth, through)) > -HELD
    verdict = "So blocks are not singled out as the cause"
    if harmless and max(row["minus_native_high"] for row in (blocky, made)) < -HELD:
        verdict = (
            "So the cause is neither enlargement nor bypassing the preprocessing alone, but blocks, which no training "
            "picture had and which the preprocessing takes away"
        )
    return (
        f"**Blocks.** Bypassing the preprocessing, smoothly enlarged pictures differ from native images by "
        f"{smooth:native} {smooth}. Pictures enlarged in blocks differ by {blocky:native} {blocky}. Native images that "
        f"nearest enlarges in blocks in place of the preprocessing differ by {made:native} {made}. Through the "
        f"preprocessing the blocky pictures differ by {through:native} {through}. {verdict} {_span(smooth, blocky)}."
    )


def _preprocessing(of):
    """What the preprocessing itself costs, and who is ahead behind it."""
    told = []
    larger = [each.name for each in cc.study.DELIVERIES if each.study == "delivery" and each.size > 32]
    for name, called in ((CNN, "the CNN"), (MOBILENET, "MobileNetV2")):
        rows = sorted((of[f"{name}/{each}/preprocessing"] for each in larger), key=itemgetter("minus_native"))
        least, most = (100 * rows[place]["minus_native"] for place in (0, -1))
        told.append(
            f"Enlarged to 224 or 1080 px and shrunk again, {called} gets {least:+.1f} to {most:+.1f} points against "
            f"native images {_span(rows[0], rows[-1])}."
        )
    cnn, bypassed = (of[f"{CNN}/published/{route}"] for route in ("preprocessing", "bypass-nearest"))
    both, trucks = (of[f"{MOBILENET}/{condition}/preprocessing"] for condition in ("published", "published-truck"))
    return (
        f"**What the preprocessing costs.** {' '.join(told)} On the published pictures the CNN gets {cnn:native} "
        f"through its preprocessing {cnn}. Resized by nearest, which finds their very pixels again, it gets "
        f"{bypassed:native} {bypassed}. With both behind their preprocessing, MobileNetV2 minus CNN is {both:first} on "
        f"these pictures {both}. On trucks it is {trucks:first} {trucks}."
    )


def _noise(of):
    """Whether the published conclusion holds on native images."""
    told = []
    for route, called in BY_ROUTE.items():
        rows = [of[f"{MOBILENET}/gaussian_noise-{severity}/{route}"] for severity in range(1, 6)]
        each = ", ".join(f"{row:first}".replace(" points", "") for row in rows)
        holds = ", ".join(str(row["severity"]) for row in rows if row.leader() < 0)
        told.append(
            f"{called}, MobileNetV2 minus CNN is, by severity, {each} points, so that by accuracy it is shown at "
            f"{f'severity {holds}' if holds else 'none'} {_span(rows[0], rows[-1])}."
        )
    pairs = [[of[f"{name}/gaussian_noise-{i}/preprocessing"] for name in (CNN, MOBILENET)] for i in range(1, 6)]
    wrong = ", ".join(" and ".join(f"{row:confident_errors}" for row in pair) for pair in pairs)
    right = " and ".join(f"{row:accuracy}" for row in pairs[-1])
    return (
        f"**“The CNN is more reliable on native low-resolution noise.”** {' '.join(told)} At severity 5, CNN and "
        f"MobileNetV2 get {right} right through the preprocessing {_span(*pairs[-1])}. Confidently wrong they are, in "
        f"this order and by severity, on {wrong} {_span(pairs[0][0], pairs[-1][1])}."
    )


def _order(of):
    """Where the order of the two models changes, for resolution and for each corruption."""
    native = of[f"{MOBILENET}/content-32/preprocessing"]
    yield f"**Native images.** MobileNetV2 minus CNN is {native:first} {native}."
    series = {"Content resolution": (["preprocessing"], [f"content-{size}" for size in (24, 16, 12, 8)], "{} px")}
    for name, title in CORRUPTIONS.items():
        series[title] = BY_ROUTE, [f"{name}-{severity}" for severity in range(1, 6)], "severity {}"
    for title, (routes, conditions, unit) in series.items():
        told = []
        for route in routes:
            rows = [of[f"{MOBILENET}/{condition}/{route}"] for condition in conditions]
            at = {sign: [row["condition"].split("-")[1] for row in rows if row.leader() == sign] for sign in LEADS}
            said = "; ".join(f"{LEADS[sign]} at {unit.format(', '.join(at[sign]))}" for sign in LEADS if at[sign])
            turned = at[-native.leader()] if native.leader() else []
            change = f"the order changes at {unit.format(turned[0])}" if turned else "the order was not shown to change"
            told.append(f"{BY_ROUTE[route]}, {said}; {change} {_span(rows[0], rows[-1])}.")
        yield f"**{title}.** {' '.join(told)}"


def _robust(of):
    """What is left of the failure in the model that was trained against it, and what it makes of small content."""
    through, *bypassing = [of[f"{ROBUST}/published/{route}"] for route in cc.study.ROUTES]
    told = []
    for row in bypassing:
        word = f"holds within {100 * HELD:.0f} points" if row["minus_preprocessing_low"] > -HELD else "may hold"
        if row["minus_preprocessing_high"] < -HELD:
            word = f"loses more than {100 * HELD:.0f} points"
        told.append(
            f"Bypassing it ({row['route']}) it gets {row:accuracy}, {row:preprocessing} from there, so {word} {row}."
        )
    yield (
        f"**Closing it by training.** Of the published pictures the robust MobileNetV2 gets {through:accuracy} right "
        f"through its preprocessing {through}. {' '.join(told)}"
    )
    cnn, usual, robust = (of[f"{name}/content-16/preprocessing"] for name in SHIPPED)
    yield (
        f"**Small content, trained for.** Of images carried at 16×16 px the CNN gets {cnn:accuracy} {cnn} right, "
        f"MobileNetV2 {usual:accuracy} {usual}, and the robust one, which has seen blurred images, {robust:accuracy} "
        f"{robust}."
    )


def _span(first, last):
    return f"(`{first['id']}` … `{last['id']}`)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, help="a .keras file that takes pixels in [0, 255]")
    what.add_argument("--findings", action="store_true", help="print the findings and stop")
    given = parser.parse_args()
    if given.findings:
        print(findings(cc.study.read(TABLE)))
    elif given.model:
        name = given.model.stem
        cc.study.fill(f"{name}.low_res.csv", {name: given.model}, cc.load_cifar10().test, cc.study.DELIVERIES)
    else:
        cc.study.fill(TABLE, {name: verify(name, cc.load_card(name)) for name in SHIPPED}, cc.load_cifar10().test)


if __name__ == "__main__":
    main()
