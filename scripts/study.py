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
from cifar_compare.low_res import DELIVERIES, FILES, WAYS, fill, read

TABLE = Path(__file__).resolve().parents[1] / "results" / "low_res_study.csv"
HELD = 0.02  # of accuracy: a way that loses no more against the entry, by its interval, holds
INTO = {"working-nearest": "to its working size", "224-nearest": "to 224 px"}


def findings(rows):
    """What the rows say, in Markdown: each sentence cites its row, and is right whichever way that went."""
    of = {row["id"]: row for row in rows}
    causes = [*_mismatch(of), *(_upscaling(of, model) for model in NAMES), _same(of)]
    lines = [*causes, _noise(of), *_order(of), *_closed(of)]
    return "\n".join(f"- {line}" for line in lines)


def _mismatch(of):
    """How much of MobileNetV2's loss in the published situation is the way in, and how much the entry leaves."""
    model = NAMES[1]
    for cell in ("published/working-nearest", "published-truck/working-nearest", "published/224-nearest"):
        file, way = cell.split("/")
        row, entered = of[f"{model}/{file}/{way}"], of[f"{model}/{file}/entry"]
        what = "trucks" if row["only"] == "truck" else "pictures"
        told = (
            f"**The published situation, {what}, straight {INTO[way]}.** Of {row['n']:,} {what} of 30×30 px, enlarged "
            f"to 1080 px by nearest and resized by nearest, MobileNetV2 gets {_percent(row['accuracy'])} right and "
            f"{_percent(row['confident_errors'])} surely wrong {_cite(row)}; of the same files through its entry "
            f"{_percent(entered['accuracy'])} and {_percent(entered['confident_errors'])} {_cite(entered)}. "
        )
        if _sign(row, "native") >= 0:
            yield f"{told}The difference to native images is {_points(row, 'native')}: there is no loss to explain."
            continue
        share = min(row["minus_entry"] / row["minus_native"], 1)
        cause = {
            -1: f"or {share:.0%}, are the mismatch between training and use",
            0: "which may be nothing, are the way in: no mismatch was shown",
            1: "a gain, are the way in: a mismatch is not the cause",
        }
        rest = {-1: "the cost of small content and enlargement", 0: "which may be nothing", 1: "a gain"}
        yield (
            f"{told}The difference to native images is {_points(row, 'native')}. Of it, {_points(row, 'entry')}, "
            f"{cause[_sign(row, 'entry')]}; {_points(entered, 'native')}, {rest[_sign(entered, 'native')]}, "
            "are left through the entry."
        )


def _upscaling(of, model):
    """What enlargement alone costs through the entry, where it costs most."""
    rows = [of[f"{model}/{file.file}/entry"] for file in DELIVERIES if file.study == "delivery" and file.size > 32]
    worst = min(rows, key=itemgetter("minus_native"))
    said = {-1: "costs", 0: "was not shown to cost", 1: "does not cost"}[_sign(worst, "native")]
    named = "the CNN" if model == NAMES[0] else "MobileNetV2"
    return (
        f"**Upscaling itself** {said} {named} accuracy where the entry takes it back: the difference is "
        f"{_points(worst, 'native')} in the worst of {len(rows)} deliveries {_cite(worst)}."
    )


def _same(of):
    """How little the ways differ for the CNN."""
    rows = [of.get(f"{NAMES[0]}/{file.file}/{way}") for file in DELIVERIES for way in WAYS[1:]]
    widest = max(filter(None, rows), key=lambda row: abs(row["minus_entry"]))
    return f"**For the CNN** another way than its entry makes {_points(widest, 'entry')} at most {_cite(widest)}."


def _noise(of):
    """Whether the published conclusion holds on native images."""
    rows = [of[f"{NAMES[1]}/gaussian_noise-{severity}/entry"] for severity in range(1, 6)]
    holds = [str(row["severity"]) for row in rows if _sign(row, "first") < 0]
    where = f"holds at severity {', '.join(holds)} and was not shown at the others"
    where = {0: "was shown at no severity", len(rows): "holds at every severity"}.get(len(holds), where)
    each = "; ".join(f"{row['severity']}: {_points(row, 'first')} {_cite(row)}" for row in rows)
    return (
        f"**“The CNN is more reliable on native low-resolution noise”** {where}. "
        f"Under Gaussian noise MobileNetV2 minus CNN is, by severity: {each}."
    )


def _order(of):
    """Where the order of the two models changes, for resolution and for each corruption."""
    native = of[f"{NAMES[1]}/content-32/entry"]
    lead, leads = _sign(native, "first"), {1: "MobileNetV2 leads", 0: "no lead was shown", -1: "the CNN leads"}
    yield f"**On native images** {leads[lead]}: MobileNetV2 minus CNN is {_points(native, 'first')} {_cite(native)}."
    series = {"Content resolution": [f"content-{size}" for size in (24, 16, 12, 8)]}
    series |= {name: [f"{name}-{severity}" for severity in range(1, 6)] for name in SEVERITIES}
    for name, files in series.items():
        rows = [of[f"{NAMES[1]}/{file}/entry"] for file in files]
        turned = [row for row in rows if lead and _sign(row, "first") == -lead]
        row = (turned or rows[-1:])[0]
        change = "The order changes at" if turned else "The order was not shown to change up to"
        places = {sign: [row["file"].split("-")[1] for row in rows if _sign(row, "first") == sign] for sign in leads}
        said = "; ".join(f"{leads[sign]} at {', '.join(at)}" for sign, at in places.items() if at)
        title = "JPEG" if name == "jpeg" else name.replace("_", " ").capitalize()
        where = f"where MobileNetV2 minus CNN is {_points(row, 'first')} {_cite(row)}"
        yield f"**{title}**: {said}. {change} {row['file']}, {where}."


def _closed(of):
    """What is left of the failure in the model that was trained against it, and what it makes of small content."""
    entered, *rows = [of[f"{SHIPPED[2]}/published/{way}"] for way in WAYS]
    holds, fails = [], []
    for row in rows:
        told = f"{_percent(row['accuracy'])} by {row['way']}, {_points(row, 'entry')} {_cite(row)}"
        (holds if row["minus_entry_low"] > -HELD else fails).append(told)
    yield (
        "**Closing it by training.** Of the same files the robust MobileNetV2 gets "
        f"{_percent(entered['accuracy'])} right through its entry {_cite(entered)}. "
        f"Straight in, no more than {100 * HELD:.0f} points are lost at {'; '.join(holds) or 'none'}; "
        f"more may be at {'; '.join(fails) or 'none'}."
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


def _cite(row):
    return f"(`{row['id']}`)"


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
