"""Fill results/low_res_study.csv: what low resolution costs the models, a row for each file and each way in.

    python scripts/study.py                 under an hour on two cores; goes on where it was interrupted
    python scripts/study.py --model FILE    a model of your own: the part about delivery and entry
    python scripts/study.py --findings      what the table says, in the README's words

Needs CIFAR-10, except for the findings. Rows that are there already, for the same model file and settings, are kept.
"""

import argparse
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import cifar_compare as cc
from cifar_compare.artefacts import NAMES, SHIPPED, verify
from cifar_compare.degrade import SEVERITIES
from cifar_compare.low_res import DELIVERIES, FILES, SURE, WAYS, fill, read

TABLE = Path(__file__).resolve().parents[1] / "results" / "low_res_study.csv"
HELD = 0.02  # of accuracy: what loses no more, by its interval, is said to hold
WAY = {"entry": "Through the entry", "working-bilinear": "Straight in, by bilinear"}
LEADS = {1: "MobileNetV2 leads", 0: "no lead was shown", -1: "the CNN leads"}
LARGER = [file for file in DELIVERIES if file.study == "delivery" and file.size > 32]


def findings(rows):
    """What the rows say, in Markdown: every sentence names its rows, and is right whichever way they went."""
    of = {row["id"]: row for row in rows}
    lines = [*_published(of), _blocks(of), _entry(of), _noise(of), *_order(of), *_closed(of)]
    note = (
        f"*Surely wrong* means wrong with a probability of at least {100 * SURE:.0f} %, *points* are of accuracy.\n\n"
    )
    return note + "\n".join(f"- {line}" for line in lines)


def _published(of):
    """What the way in makes of the published situation."""
    nearest = "working-nearest", "its working size"
    for file, what, (way, size) in (
        ("published", "pictures", nearest),
        ("published-truck", "trucks", nearest),
        ("published-truck", "trucks", ("224-nearest", "224 px, a size that it was not trained at")),
    ):
        row, entered = of[f"{NAMES[1]}/{file}/{way}"], of[f"{NAMES[1]}/{file}/entry"]
        yield (
            f"**Published {what}, straight to {size}.** Of {row['n']:,} {what} of 30×30 px, enlarged to 1080 px and "
            f"resized by nearest, MobileNetV2 gets {_percent(row['accuracy'])} right and "
            f"{_percent(row['confident_errors'])} surely wrong {_cite(row)}. Of the same files through its entry it "
            f"gets {_percent(entered['accuracy'])} right and {_percent(entered['confident_errors'])} surely wrong "
            f"{_cite(entered)}. The way in makes {_points(row, 'entry')}, of {_points(row, 'native')} in all "
            f"against native images {_cite(row)}."
        )


def _blocks(of):
    """Whether the way in does it alone, or enlargement, or blocks."""
    smooth, blocky = (of[f"{NAMES[1]}/1080-{method}/working-nearest"] for method in ("bicubic", "nearest"))
    made, entered = (of[f"{NAMES[1]}/{cell}"] for cell in ("native/working-nearest", "1080-nearest/entry"))
    alone = min(row["minus_native_low"] for row in (smooth, entered)) > -HELD
    both = alone and max(row["minus_native_high"] for row in (blocky, made)) < -HELD
    verdict = "So blocks are not singled out as the cause"
    if both:
        verdict = (
            "So the cause is neither enlargement nor the way in alone, but blocks, which no training picture had and "
            "which the entry takes away"
        )
    return (
        f"**Blocks.** Straight in, smoothly enlarged files differ from native images by {_points(smooth, 'native')} "
        f"{_cite(smooth)}. Files enlarged in blocks differ by {_points(blocky, 'native')} {_cite(blocky)}. Native "
        f"images made into blocks on the way in differ by {_points(made, 'native')} {_cite(made)}. Through the entry "
        f"the blocky files differ by {_points(entered, 'native')} {_cite(entered)}. {verdict} "
        f"{_cite(smooth, blocky)}."
    )


def _entry(of):
    """What the entry itself costs, and who is ahead behind it."""
    told = []
    for name, called in zip(NAMES, ("the CNN", "MobileNetV2"), strict=True):
        rows = sorted((of[f"{name}/{file.file}/entry"] for file in LARGER), key=itemgetter("minus_native"))
        least, most = (100 * rows[place]["minus_native"] for place in (0, -1))
        told.append(
            f"Enlarged to 224 or 1080 px and shrunk again, {called} gets {least:+.1f} to {most:+.1f} points against "
            f"native images {_cite(rows[0], rows[-1])}."
        )
    cnn, straight = (of[f"{NAMES[0]}/published/{way}"] for way in ("entry", "working-nearest"))
    mobile, trucks = (of[f"{NAMES[1]}/{file}/entry"] for file in ("published", "published-truck"))
    return (
        f"**What the entry costs.** {' '.join(told)} On the published files the CNN gets {_points(cnn, 'native')} "
        f"through its entry {_cite(cnn)}. Resized by nearest, which finds their very pixels again, it gets "
        f"{_points(straight, 'native')} {_cite(straight)}. With both behind their entries, MobileNetV2 minus CNN is "
        f"{_points(mobile, 'first')} on these files {_cite(mobile)}. On trucks it is {_points(trucks, 'first')} "
        f"{_cite(trucks)}."
    )


def _noise(of):
    """Whether the published conclusion holds on native images."""
    told = []
    for way, called in WAY.items():
        rows = [of[f"{NAMES[1]}/gaussian_noise-{severity}/{way}"] for severity in range(1, 6)]
        each = ", ".join(_points(row, "first").replace(" points", "") for row in rows)
        holds = ", ".join(str(row["severity"]) for row in rows if _sign(row, "first") < 0)
        told.append(
            f"{called}, MobileNetV2 minus CNN is, by severity, {each} points, so that by accuracy it is shown at "
            f"{f'severity {holds}' if holds else 'none'} {_cite(rows[0], rows[-1])}."
        )
    pairs = [[of[f"{name}/gaussian_noise-{severity}/entry"] for name in NAMES] for severity in range(1, 6)]
    sure = ", ".join(" and ".join(_percent(row["confident_errors"]) for row in pair) for pair in pairs)
    right = " and ".join(_percent(row["accuracy"]) for row in pairs[-1])
    return (
        f"**“The CNN is more reliable on native low-resolution noise.”** {' '.join(told)} At severity 5, CNN and "
        f"MobileNetV2 get {right} right through the entry {_cite(*pairs[-1])}. Surely wrong they are, in this order "
        f"and by severity, on {sure} {_cite(pairs[0][0], pairs[-1][1])}."
    )


def _order(of):
    """Where the order of the two models changes, for resolution and for each corruption."""
    native = of[f"{NAMES[1]}/content-32/entry"]
    lead = _sign(native, "first")
    yield f"**Native images.** MobileNetV2 minus CNN is {_points(native, 'first')} {_cite(native)}."
    series = {"Content resolution": (("entry",), [f"content-{size}" for size in (24, 16, 12, 8)], "{} px")}
    for name in SEVERITIES:
        files, title = [f"{name}-{severity}" for severity in range(1, 6)], name.replace("_", " ").capitalize()
        series["JPEG" if name == "jpeg" else title] = (WAY, files, "severity {}")
    for title, (ways, files, unit) in series.items():
        told = []
        for way in ways:
            rows = [of[f"{NAMES[1]}/{file}/{way}"] for file in files]
            places = {
                sign: [row["file"].split("-")[1] for row in rows if _sign(row, "first") == sign] for sign in LEADS
            }
            said = "; ".join(f"{LEADS[sign]} at {unit.format(', '.join(at))}" for sign, at in places.items() if at)
            turned = places[-lead] if lead else []
            change = f"the order changes at {unit.format(turned[0])}" if turned else "the order was not shown to change"
            told.append(f"{WAY[way]}, {said}; {change} {_cite(rows[0], rows[-1])}.")
        yield f"**{title}.** {' '.join(told)}"


def _closed(of):
    """What is left of the failure in the model that was trained against it, and what it makes of small content."""
    entered, *rows = [of[f"{SHIPPED[2]}/published/{way}"] for way in WAYS]
    told = []
    for row in rows:
        kept = row["minus_entry_low"] > -HELD, row["minus_entry_high"] >= -HELD
        word = {
            (True, True): f"holds within {100 * HELD:.0f} points",
            (False, True): "may hold",
            (False, False): f"loses more than {100 * HELD:.0f} points",
        }[kept]
        told.append(
            f"Straight in ({row['way']}) it gets {_percent(row['accuracy'])}, {_points(row, 'entry')} from there, and "
            f"so {word} {_cite(row)}."
        )
    yield (
        "**Closing it by training.** Of the published files the robust MobileNetV2 gets "
        f"{_percent(entered['accuracy'])} right through its entry {_cite(entered)}. {' '.join(told)}"
    )
    small = (of[f"{name}/content-16/entry"] for name in SHIPPED)
    cnn, usual, robust = (f"{_percent(row['accuracy'])} {_cite(row)}" for row in small)
    yield (
        f"**Small content, trained for.** Of images carried at 16×16 px the CNN gets {cnn} right, MobileNetV2 {usual}, "
        f"and the robust one, which has seen blurred images, {robust}."
    )


def _sign(row, other):
    """-1 or 1 where the interval of a difference leaves out 0, else 0."""
    return int(row[f"minus_{other}_low"] > 0) - int(row[f"minus_{other}_high"] < 0)


def _points(row, other):
    middle, low, high = (100 * row[f"minus_{other}{end}"] for end in ("", "_low", "_high"))
    return f"{middle:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _percent(share):
    return f"{100 * share:.1f} %"


def _cite(*rows):
    return "(" + " … ".join(f"`{row['id']}`" for row in rows) + ")"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"shipped models (default: {' '.join(SHIPPED)})")
    parser.add_argument("--model", type=Path, help="a .keras file that takes pixels in [0, 255]")
    parser.add_argument("--table", type=Path, help="default: results/low_res_study.csv; with --model, NAME.low_res.csv")
    parser.add_argument("--limit", type=int, help="images a file at most, a multiple of 10; needs --table")
    parser.add_argument("--findings", action="store_true", help="print the findings and stop")
    given = parser.parse_args()
    if given.limit and not given.table:
        parser.error("--limit needs a --table of its own")
    table = given.table or (Path(f"{given.model.stem}.low_res.csv") if given.model else TABLE)
    if given.findings:
        if given.model:
            parser.error("--findings are about the shipped models; leave --model out")
        print(findings(read(table)))
        return
    if given.model:
        paths = {given.model.stem: given.model}
    else:  # the CNN always comes along, as what the others are compared with
        names = dict.fromkeys([NAMES[0], *(given.names or SHIPPED)])
        paths = {name: verify(name, cc.load_card(name)) for name in names}
    files = [replace(file, n=min(file.n, given.limit or file.n)) for file in (DELIVERIES if given.model else FILES)]
    for row in fill(table, paths, cc.load_cifar10().test, files):
        print(f"{row['id']:50}{_percent(row['accuracy']):>8}")


if __name__ == "__main__":
    main()
