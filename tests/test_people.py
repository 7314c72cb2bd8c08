"""The models beside people: what the table says, and what is refused."""

import json

import numpy as np
import people
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED

TOLD = json.loads(people.TABLE.read_text())
RESULTS = {"custom_cnn": cc.load_predictions("custom_cnn")}
LABELS = RESULTS["custom_cnn"].labels


def test_the_table_is_of_the_shipped_answers():
    assert list(TOLD["models"]) == list(TOLD["corrected"]["models"]) == list(SHIPPED)
    for name, told in TOLD["models"].items():
        accuracy = np.dot(told["accuracy_by_agreement"], [each["images"] for each in TOLD["agreement"]]) / 10_000
        assert accuracy == pytest.approx(cc.load_predictions(name).accuracy)
        assert told["cross_entropy_nats"] > TOLD["entropy_nats"]


def test_people_are_as_accurate_as_was_published():
    assert (TOLD["single_person_accuracy"], TOLD["majority_accuracy"]) == pytest.approx((0.9524, 0.9921), abs=1e-4)


def test_people_who_all_give_the_label():
    told = people.beside_people(RESULTS, 50 * np.eye(10, dtype=int)[LABELS])
    assert told["single_person_accuracy"] == told["majority_accuracy"] == 1
    assert told["entropy_nats"] == 0
    assert [each["images"] for each in told["agreement"]] == [0, 0, 0, 10_000]
    model = told["models"]["custom_cnn"]
    assert model["agrees_with_majority"] == model["accuracy_by_agreement"][-1] == RESULTS["custom_cnn"].accuracy
    assert model["accuracy_by_agreement"][0] is None
    assert model["errors_that_people_made_too"] == 0


@pytest.mark.parametrize("counts", [np.ones((10, 10), int), np.eye(10, dtype=int)[(LABELS + 1) % 10]])
def test_counts_of_other_images_are_refused(counts):
    with pytest.raises(SystemExit, match="do not fit the test split"):
        people.beside_people(RESULTS, counts)


def test_labels_are_corrected_where_most_agree_and_left_out_where_they_do_not():
    votes = {"given": 1, "guessed": 4}, {"given": 0, "guessed": 2}, {"given": 3, "guessed": 2}
    other = [int(label + 1) % 10 for label in LABELS[:3]]
    rows = [
        {"index": i, "given": int(LABELS[i]), "suggested": other[i], "votes": votes[i], "spare": None} for i in range(3)
    ]
    told = people.by_corrected_labels(RESULTS, rows)
    assert (told["doubtful"], told["left_out"]) == (2, 1)
    right = RESULTS["custom_cnn"].right.copy()
    right[0] = RESULTS["custom_cnn"].predictions[0] == other[0]
    assert told["models"]["custom_cnn"]["accuracy"] == pytest.approx(np.delete(right, 1).mean())


def test_errors_of_another_order_are_refused():
    row = {"index": 0, "given": int(LABELS[0] + 1) % 10, "suggested": 0, "votes": {"given": 0, "guessed": 5}}
    with pytest.raises(SystemExit, match="image 0"):
        people.by_corrected_labels(RESULTS, [row])
