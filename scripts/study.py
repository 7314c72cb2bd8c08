"""Fill results/low_res_study.csv: what low resolution costs the models, a row for each condition and each route.

    python scripts/study.py                 under an hour on two cores; goes on where it was interrupted
    python scripts/study.py --model FILE    a model of your own: the part about delivery, into NAME.low_res.csv
    python scripts/study.py --findings      what the table says, in the README's words

Needs CIFAR-10, except for the findings. Rows that are there already, for the same model file and settings, are kept.
The findings are sentences that people wrote, in low_res.md beside this file; `{ID:FIGURE}` names a row of the table and
a figure of it. tests/test_results.py says what must be true of the figures for the sentences to be true.
"""

import argparse
from pathlib import Path

import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED, verify

ROOT = Path(__file__).resolve().parents[1]
TABLE, SENTENCES = ROOT / "results" / "low_res_study.csv", ROOT / "scripts" / "low_res.md"


class Row(dict):
    """A row of the table that tells its figures: `f"{row:accuracy}"` in %, `f"{row:native}"` in points."""

    def __format__(self, figure):
        if figure == "n":
            return f"{self['n']:,}"
        if figure in self:
            return f"{100 * self[figure]:.1f} %"
        # "behind" is the first model's lead, told the other way around.
        sign, other = (-1, "first") if figure == "behind" else (1, figure)
        middle, *ends = (sign * 100 * self[f"minus_{other}{end}"] for end in ("", "_low", "_high"))
        low, high = sorted(ends)
        return f"{middle:+.1f} points [{low:+.1f}, {high:+.1f}]"


def findings(rows):
    """What the rows say, in Markdown."""
    of = {row["id"]: Row(row) for row in rows}
    return SENTENCES.read_text().strip().format_map(of | {"CONFIDENT": f"{100 * cc.study.CONFIDENT:.0f} %"})


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
