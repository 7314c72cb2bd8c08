"""Fill results/low_res_study.csv: what low resolution costs the models, a row for each condition and each route.

    python scripts/study.py                 an hour or two on two cores; goes on where it was interrupted
    python scripts/study.py --model FILE    a model of your own: the part about delivery, into NAME.low_res.csv

Needs CIFAR-10. Rows that are there already, for the same model file and settings, are kept. The published networks are
measured where scripts/published.py has trained them. docs/low-res.md tells what the rows say.
"""

import argparse
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
from published import trained

from cifar_compare.artefacts import SHIPPED, verify

TABLE = Path(__file__).resolve().parents[1] / "results" / "low_res_study.csv"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a .keras file that takes pixels in [0, 255]")
    given = parser.parse_args()
    if given.model:
        name = given.model.stem
        cc.study.fill(f"{name}.low_res.csv", {name: given.model}, cc.load_cifar10().test, cc.study.DELIVERIES)
    else:
        paths = {name: verify(name, cc.load_card(name)) for name in SHIPPED}
        paths |= {name: path for name, (path, _) in trained().items() if path}
        cc.study.fill(TABLE, paths, cc.load_cifar10().test)


if __name__ == "__main__":
    main()
