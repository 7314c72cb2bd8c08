"""What the bench records and tells, on made data: the figures themselves are `make bench`'s."""

import json
import math

import bench
import keras
import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import NAMES
from cifar_compare.roles import parts


@pytest.fixture(scope="module")
def data():
    return cc.make_toy_data(train=100, validation=50, test=50)


def test_a_median_leaves_out_the_first_calls(monkeypatch):
    clock = iter(np.cumsum([0, 9, 0, 9, 0, 1, 0, 5, 0, 2]))  # start and end of two warm calls and three counted ones
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    assert bench.median_seconds(lambda: None, repeats=3) == 2


def test_a_race_without_its_record_says_what_to_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PUBLISHED", tmp_path / "none.json")
    with pytest.raises(SystemExit, match=r"no .*none\.json; run `python scripts/published\.py cnn` first"):
        bench.race(data)


def test_a_bare_network_lacks_only_the_layers_named():
    network = parts(cc.build_custom_cnn(0, (8, 8, 8)))[1]
    bare = bench.bare(network, keras.layers.BatchNormalization)
    weights = [sum(math.prod(weight.shape) for weight in model.trainable_weights) for model in (network, bare)]
    assert weights[0] - weights[1] == 6 * 8
    left = [layer.name for layer in network.layers if not isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.name for layer in bare.layers] == left


def test_what_is_recorded_is_of_the_shipped_files():
    record = json.loads(bench.RECORD.read_text())
    rows = record["inference"] + record["exports"]
    assert {row["model"] for row in rows} == set(NAMES)
    assert all(row["sha256"] == cc.load_card(row["model"])["sha256"] for row in rows), "run `make bench` anew"


def test_what_is_recorded_agrees_on_every_runtime():
    for row in json.loads(bench.RECORD.read_text())["inference"]:
        assert row["apart"] < 1e-4, row


def test_lite_takes_batches_of_any_size(tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    cc.export("custom_cnn", tmp_path / "cnn.tflite")
    ask = bench.lite(tmp_path / "cnn.tflite")
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    one = ask(pixels[:1])
    assert ask(pixels).shape == (5, 10)
    np.testing.assert_allclose(one, ask(pixels)[:1], atol=1e-5)


def test_answers_come_from_the_backend_that_is_named(tmp_path):
    pytest.importorskip("jax")
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    np.save(tmp_path / "images.npy", pixels)
    on_jax = bench.answer_on("jax", "custom_cnn", tmp_path / "images.npy", tmp_path / "answers.npy")
    assert set(on_jax) == {"latency_ms", "per_second"}
    answers = cc.load_model("custom_cnn").predict(pixels, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), answers, atol=1e-4)


def test_unknown_parts_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.py", "speed"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no part speed; there are share" in capsys.readouterr().err
