"""Further seeds of a released recipe: what a run leaves on the card, what is refused, what the README says of it."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import seeds

import cifar_compare as cc


@pytest.fixture
def card(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "MODELS", tmp_path)
    path = tmp_path / "custom_cnn.json"
    path.write_text(json.dumps({key: value for key, value in cc.load_card("custom_cnn").items() if key != "seeds"}))
    return path


def test_a_further_seed_is_trained_as_the_released_one_and_put_onto_the_card(card, tmp_path):
    data, before, given = cc.make_toy_data(train=20, validation=50, test=30), json.loads(card.read_text()), []

    def spy(model, data, recipe, folder):
        given.append((model.get_weights(), recipe, folder))
        return [{"seconds": 2.0, "hardware": "none"}] * 3

    with mock.patch.object(cc, "train", spy):
        rows = [seeds.add("custom_cnn", seed, data, tmp_path / "runs") for seed in (2, 1, 2)]
    after = json.loads(card.read_text())
    assert after.pop("seeds") == [rows[1], rows[2]]
    assert after == before
    assert [rows[1][key] for key in ("seed", "seconds", "hardware")] == [1, 6.0, "none"]
    (two, recipe, folder), (one, *_), (again, *_) = given
    assert recipe == dataclasses.replace(cc.RECIPES["custom_cnn"], seed=2)
    assert folder == tmp_path / "runs" / "custom_cnn-seed2"
    assert all(np.array_equal(a, b) for a, b in zip(two, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(two, one, strict=True))


def test_the_released_seed_and_another_recipe_are_refused(card, tmp_path):
    data, told = cc.make_toy_data(train=20, validation=20, test=20), json.loads(card.read_text())
    with mock.patch.object(cc, "train") as trained:
        with pytest.raises(SystemExit, match="seed 0 is the released one"):
            seeds.add("custom_cnn", 0, data, tmp_path)
        told["recipe"]["shift"] = 3
        card.write_text(json.dumps(told))
        with pytest.raises(SystemExit, match=r"another recipe; run `python scripts/train\.py custom_cnn`"):
            seeds.add("custom_cnn", 1, data, tmp_path)
    trained.assert_not_called()


def test_the_spread_is_that_of_all_seeds():
    told = {"test": {"accuracy": 0.95}}
    assert seeds.spread(told) == "only one seed was trained so far"
    told["seeds"] = [{"test_accuracy": 0.953}, {"test_accuracy": 0.944}]
    # Mean 0.949; deviations 0.1, 0.4 and -0.5 points: the root of 0.42 / 2.
    assert seeds.spread(told) == ("mean 94.90 %, standard deviation 0.46 points, range 94.40 to 95.30 % (3 seeds)")
