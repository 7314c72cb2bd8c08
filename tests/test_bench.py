"""What the bench records and tells, on made data: the figures themselves are `make bench`'s."""

import json
import math
import subprocess
import sys

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


def test_the_published_cnn_has_the_published_size():
    assert bench.published_cnn().count_params() == pytest.approx(3.25e6, rel=0.005)


def test_the_baseline_goes_on_where_it_was_stopped(data, tmp_path):
    record, folder = tmp_path / "published.json", tmp_path / "runs"
    first = bench.train_published(data, 1, folder, record)
    both = bench.train_published(data, 2, folder, record)
    assert [row["epoch"] for row in both] == [1, 2]
    assert both[0] == first[0]
    assert json.loads(record.read_text())["history"] == both
    assert bench.train_published(data, 2, folder, record) == both


def test_the_baseline_stops_at_the_target(data, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TARGET", 0.0)
    assert len(bench.train_published(data, 5, tmp_path, tmp_path / "published.json")) == 1


def test_a_median_leaves_out_the_first_calls(monkeypatch):
    clock = iter(np.cumsum([0, 9, 0, 9, 0, 1, 0, 5, 0, 2]))  # start and end of two warm calls and three counted ones
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    assert bench.median_seconds(lambda: None, repeats=3) == 2


def test_a_race_without_its_records_says_what_to_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PUBLISHED", tmp_path / "none.json")
    with pytest.raises(SystemExit, match="--baseline"):
        bench.race(data)


def test_a_race_against_half_a_baseline_is_refused(data, tmp_path, monkeypatch):
    record = tmp_path / "published.json"
    record.write_text(json.dumps({"cap": 40, "history": [{"epoch": 1, "val_accuracy": 0.5}]}))
    monkeypatch.setattr(bench, "PUBLISHED", record)
    with pytest.raises(SystemExit, match=r"holds 1 of 40 epochs and none reached 88\.63%; run"):
        bench.race(data)


def test_the_tables_say_ratios_of_what_was_measured():
    record = {
        "hardware": "2 cores",
        "share": {
            **{"dtype": "float32", "peak_gflops": 200.0, "training_gflops": 150.0, "images_per_second": 100.0},
            **{"input_seconds": 0.1, "step_seconds": 5.0, "variants": {"without either": 4.0, "in tea": 6.0}},
        },
        "race": {
            **{"target": 0.8863, "published_reached": False, "published_epochs": 40, "published_best": 0.87},
            **{"published_hardware": "a loom", "published_minutes": 200.0},
            **{"ours_accuracies": [0.9, 0.91], "ours_epochs": 6, "ours_minutes": 10.0},
        },
        "start": {"command": 4.0, "keras": 2.5, "pictures": 1.25, "network": 0.75},
        "growth": [{"job": "load", "n": 60_000, "size": 32, "seconds": 1.5, "peak_mib": 700.0}],
    }
    told = bench.tables(record)
    assert "**75 %** of that" in told
    assert "2.0 % of a step. In place of 5.00 s a step takes 4.00 s without either, 6.00 s in tea." in told
    assert "it would thus reach 94 % of the peak" in told
    assert "did not reach 88.63 %" in told
    assert "(best: 87.00 %; trained on a loom), which take 200 min here" in told
    assert "**at least 20.0 times faster**" in told
    record["race"]["published_reached"] = True
    assert "**20.0 times faster**" in bench.tables(record)
    assert "| load | 60,000 | 32 | 1.5 | 40,000 | 700 |" in told
    assert "takes 4.0 s for one picture, 2.5 s of it for importing Keras; 1,500 more take 1.2 s" in told
    assert "**Start.**" not in bench.tables({"hardware": "2 cores"})


def test_a_bare_network_lacks_only_the_layers_named():
    network = parts(cc.build_custom_cnn(0, (8, 8, 8)))[1]
    bare = bench.bare(network, keras.layers.BatchNormalization)
    weights = [sum(math.prod(weight.shape) for weight in model.trainable_weights) for model in (network, bare)]
    assert weights[0] - weights[1] == 6 * 8
    left = [layer.name for layer in network.layers if not isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.name for layer in bare.layers] == left


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_memory_is_this_process_s_own():
    held = np.ones((256, 1024, 1024), "int8")  # MiB that the child does not have
    code = "import bench; print(bench.peak_mib())"
    done = subprocess.run([sys.executable, "-c", code], cwd=bench.ROOT / "scripts", capture_output=True, check=True)
    assert 100 < float(done.stdout) < bench.peak_mib() - len(held) / 2


def test_what_is_recorded_is_of_the_shipped_files():
    record = json.loads(bench.RECORD.read_text())
    rows = record["inference"] + record["exports"]
    assert {row["model"] for row in rows} == set(NAMES)
    assert all(row["sha256"] == cc.load_card(row["model"])["sha256"] for row in rows), "run `make bench` anew"


def test_what_is_recorded_agrees_on_every_runtime():
    for row in json.loads(bench.RECORD.read_text())["inference"]:
        assert row["apart"] < 1e-4, row


@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_what_is_recorded_grows_with_the_images_in_time_alone(job):
    rows = [row for row in json.loads(bench.RECORD.read_text())["growth"] if (row["job"], row["size"]) == (job, 32)]
    few, *_, most = sorted((row["n"], row["seconds"], row["peak_mib"]) for row in rows)
    assert most[0] == 9 * few[0]
    assert 6 < most[1] / few[1] < 10  # the first step's compilation weighs more in few images
    assert most[2] == pytest.approx(few[2], rel=0.1)


def test_lite_takes_batches_of_any_size(tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    cc.export("custom_cnn", tmp_path / "cnn.tflite")
    ask = bench.lite(tmp_path / "cnn.tflite")
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    one = ask(pixels[:1])
    assert ask(pixels).shape == (5, 10)
    np.testing.assert_allclose(one, ask(pixels)[:1], atol=1e-5)


def test_a_job_runs_in_a_process_of_its_own_on_the_backend_that_is_named(tmp_path):
    pytest.importorskip("jax")
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    np.save(tmp_path / "images.npy", pixels)
    on_jax = bench.in_process(
        "answer", "custom_cnn", tmp_path / "images.npy", tmp_path / "answers.npy", KERAS_BACKEND="jax"
    )
    assert set(on_jax) == {"latency_ms", "per_second"}
    answers = cc.load_model("custom_cnn").predict(pixels, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), answers, atol=1e-4)


def test_unknown_parts_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.py", "speed"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no part speed; there are start share" in capsys.readouterr().err
