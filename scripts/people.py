"""Fill results/people.json: the shipped models' answers beside those of people, and by corrected labels.

    CIFAR10H_COUNTS=FILE CIFAR10_LABEL_ERRORS=FILE python scripts/people.py

The first file is `cifar10h-counts.npy` of jcpeterson/cifar-10h: how many people gave each answer, (10000, 10) in the
order of the test split (Peterson et al. 2019, arXiv:1908.07086; its licence is non-commercial, so that figures alone
are kept here). The second is `mturk/cifar10_mturk.json` of cleanlab/label-errors: what five people each said of
labels under suspicion (Northcutt et al. 2021, arXiv:2103.14749). Needs no images.
"""

import json
from pathlib import Path

import numpy as np

import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED
from cifar_compare.system import path_from, write_json

TABLE = Path(__file__).resolve().parents[1] / "results" / "people.json"
AGREEMENT = (0.0, 0.7, 0.9, 1.0)  # lower ends of the bins


def beside_people(results, counts):
    """Figures of people's answers (n, k) themselves, and of each model beside them."""
    labels = next(iter(results.values())).labels
    counts = np.asarray(counts)
    if counts.shape != (len(labels), 10) or (counts.argmax(axis=1) == labels).mean() < 0.95:
        raise SystemExit(f"the counts {counts.shape} do not fit the test split; expected (10000, 10), in its order")
    people = counts / counts.sum(axis=1, keepdims=True)
    bins = np.digitize(people.max(axis=1), AGREEMENT) - 1
    told = {
        "answers": int(counts.sum()),
        "single_person_accuracy": float(people[np.arange(len(labels)), labels].mean()),
        "majority_accuracy": float((counts.argmax(axis=1) == labels).mean()),
        "entropy_nats": cross_entropy(people, people),
        "agreement": [{"from": low, "images": int((bins == i).sum())} for i, low in enumerate(AGREEMENT)],
    }
    return told | {"models": {name: one_model(each, counts, people, bins) for name, each in results.items()}}


def one_model(result, counts, people, bins):
    right = result.predictions == result.labels
    shared = counts[np.arange(len(right)), result.predictions][~right] > 0
    return {
        "agrees_with_majority": float((result.predictions == counts.argmax(axis=1)).mean()),
        "cross_entropy_nats": cross_entropy(people, result.probabilities),
        "accuracy_by_agreement": [share(right[bins == i]) for i in range(len(AGREEMENT))],
        "errors_that_people_made_too": share(shared),
    }


def share(hits):
    return float(hits.mean()) if len(hits) else None


def cross_entropy(people, probabilities):
    return float(-(people * np.log(np.maximum(probabilities, 1e-38))).sum(axis=1).mean())


def by_corrected_labels(results, checked):
    """Accuracies once doubtful labels are corrected, where most of the five agreed on another, or else left out."""
    labels = next(iter(results.values())).labels
    corrected, kept, doubtful = labels.copy(), np.ones(len(labels), bool), 0
    for row in checked:
        index, votes = row.get("id", row.get("index")), row.get("mturk", row.get("votes"))
        if row.get("given_original_label", row.get("given")) != labels[index]:
            raise SystemExit(f"the label errors name another label for image {index}; expected the test split's order")
        if votes["given"] < 3:
            doubtful += 1
            corrected[index] = row.get("our_guessed_label", row.get("suggested"))
            kept[index] = votes["guessed"] >= 3
    told = {"doubtful": doubtful, "left_out": int((~kept).sum()), "models": {}}
    for name, each in results.items():
        better = cc.score(each.probabilities[kept], corrected[kept])
        told["models"][name] = {"accuracy": better.accuracy, "interval": list(better.interval)}
    return told


def main():
    counts, errors = (path_from(name) for name in ("CIFAR10H_COUNTS", "CIFAR10_LABEL_ERRORS"))
    if not (counts and errors):
        raise SystemExit("set CIFAR10H_COUNTS and CIFAR10_LABEL_ERRORS to the two files; see the head of this script")
    results = {name: cc.load_predictions(name) for name in SHIPPED}
    checked = json.loads(errors.read_text())
    write_json(TABLE, beside_people(results, np.load(counts)) | {"corrected": by_corrected_labels(results, checked)})


if __name__ == "__main__":
    main()
