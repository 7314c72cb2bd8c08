import csv
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from picture_models import blocks, save_tiny_models
from PIL import Image

from cifar_compare import pictures
from cifar_compare.cli import main
from cifar_compare.data import CLASSES

COMMAND = [sys.executable, "-c", "from cifar_compare.cli import main; raise SystemExit(main())"]


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def shipped(models_folder, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(models_folder))


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for number, size in enumerate([(32, 32), (50, 40), (48, 64)]):
        Image.fromarray(blocks(*size, number)).save(folder / f"{number}.png")
    return folder


def test_help_is_quick_and_imports_nothing_heavy():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        help_text = subprocess.run([*COMMAND, "predict", "--help"], capture_output=True, text=True, check=True).stdout
        seconds.append(time.perf_counter() - start)
    assert "--model NAME" in help_text
    assert min(seconds) < 0.6  # 0.3 s on an idle machine
    look = "import sys, cifar_compare.cli as c; c._parser(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "jax", "numpy", "PIL"} & set(modules)


@pytest.mark.parametrize(
    "arguments", [[], ["predict"], ["predict", "a", "--json", "--csv"], ["predict", "a", "--top", "0"]]
)
def test_wrong_calls_exit_with_2(arguments, capfd):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: cifar-compare" in capfd.readouterr().err


@pytest.mark.usefixtures("shipped")
def test_all_three_forms_agree_with_predict_and_plain_keras(album, models_folder, capfd):
    import keras

    assert main(["predict", str(album), "--json", "--model", "all"]) == 0
    records = json.loads(capfd.readouterr().out)
    assert main(["predict", str(album), "--csv", "--model", "all"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert main(["predict", str(album), "--model", "all"]) == 0
    captured = capfd.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    files = sorted(str(path) for path in album.iterdir())
    assert [(r["picture"], r["model"]) for r in records] == [
        (file, name) for file in files for name in ("custom_cnn", "mobilenet_v2")
    ]
    for record, row, line in zip(records, rows, lines, strict=True):
        assert list(record) == [
            "picture",
            "model",
            "model_sha256",
            "label",
            "probability",
            "unlike",
            "top",
            "probabilities",
        ]
        assert list(record["probabilities"]) == list(CLASSES)
        assert list(row) == [*list(record)[:6], *CLASSES]
        card = json.loads((models_folder / f"{record['model']}.json").read_text())
        assert record["model_sha256"] == row["model_sha256"] == card["sha256"]
        (answer,) = pictures.predict(record["model"], record["picture"])
        plain = keras.saving.load_model(models_folder / f"{record['model']}.keras")
        expected = np.asarray(plain(pictures.read_picture(record["picture"])[None]))[0]
        np.testing.assert_allclose(list(record["probabilities"].values()), expected, atol=1e-5)
        np.testing.assert_allclose([float(row[label]) for label in CLASSES], expected, atol=1e-5)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert record["label"] == row["label"] == answer.label == CLASSES[expected.argmax()]
        assert record["unlike"] is (record["probability"] < 0.5)
        assert row["unlike"] == str(record["unlike"])
        assert [best["label"] for best in record["top"]] == [label for label, _ in answer.top]
        assert line.startswith(record["picture"][:40])
        assert f"{record['label']:<10} {record['probability']:6.1%}" in line
        assert ("unlike the ten classes" in line) is record["unlike"]


@pytest.mark.usefixtures("shipped")
def test_same_answers_as_predict_on_the_same_batch(album, capfd):
    main(["predict", str(album), "--json"])
    records = json.loads(capfd.readouterr().out)
    answers = pictures.predict("mobilenet_v2", album)
    assert [list(r["probabilities"].values()) for r in records] == [
        [round(float(p), 9) for p in answer.probabilities] for answer in answers
    ]


def hostile(folder):
    """Twenty files that pretend to be pictures."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    png, jpeg = whole.getvalue(), io.BytesIO()
    Image.open(whole).save(jpeg, "JPEG")
    jpeg = jpeg.getvalue()
    contents = [
        b"",
        b"GIF89a",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"BM" + bytes(60),
        b"II*\0\xff\xff\xff\xff",
    ]
    contents += [
        png[:20],
        png[:200],
        png[: len(png) // 2],
        jpeg[:30],
        jpeg[:700],
        b"text" * 1000,
        bytes(5000),
    ]
    contents += [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]
    claims = b"\0\1\0\0\0\1\0\0"  # 65536×65536 pixels
    lzw = io.BytesIO()
    Image.open(whole).save(lzw, "TIFF", compression="tiff_lzw")
    contents += [lzw.getvalue()[:8] + bytes(600) + lzw.getvalue()[608:]]
    contents += [png[:16] + claims + png[24:], b"%PDF-1.7", b"PK\3\4"]
    for number, content in enumerate(contents):
        (folder / f"hostile {number}\n.png").write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "nowhere.png").symlink_to(folder / "missing")


def test_one_good_and_twenty_hostile_files(tmp_path, models_folder):
    hostile(tmp_path)
    Image.fromarray(blocks(40, 40)).save(tmp_path / "good.png")
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    run = subprocess.run([*COMMAND, "predict", tmp_path, "--json"], capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    (record,) = json.loads(run.stdout)
    assert record["picture"] == str(tmp_path / "good.png")
    *reasons, summary = run.stderr.splitlines()
    assert len(reasons) == 20
    assert all(line.startswith(f"cifar-compare: {tmp_path}{os.sep}") for line in reasons)
    assert summary == "cifar-compare: 20 of 21 pictures skipped"


@pytest.mark.usefixtures("shipped")
def test_nothing_readable_is_still_a_document(tmp_path, capfd):
    for form, expected in (
        ("--json", "[]\n"),
        ("--csv", "picture,model,model_sha256,label,probability,unlike,"),
    ):
        assert main(["predict", str(tmp_path / "missing.png"), form]) == 1
        captured = capfd.readouterr()
        assert captured.out.startswith(expected)
        assert captured.err.splitlines()[0].endswith("missing.png: No such file or directory")


@pytest.mark.usefixtures("shipped")
def test_odd_file_names_stay_on_their_line(tmp_path, capfd):
    name = os.fsencode(tmp_path) + b"/\xff\n\x1b[2J.png"
    Image.fromarray(blocks(32, 32)).save(tmp_path / "plain.png")
    os.rename(os.fsencode(tmp_path / "plain.png"), name)
    assert main(["predict", str(tmp_path), "--model", "custom_cnn"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.isprintable()
    assert main(["predict", str(tmp_path), "--model", "custom_cnn", "--json"]) == 0
    assert os.fsencode(json.loads(capfd.readouterr().out)[0]["picture"]) == name
    assert main(["predict", str(tmp_path), "--model", "custom_cnn", "--csv"]) == 0
    assert "\\udcff" in capfd.readouterr().out


@pytest.mark.usefixtures("shipped")
def test_progress_bar_past_a_few_on_a_terminal(tmp_path, capfd):
    termios = pytest.importorskip("termios", reason="no terminals to open on this system")
    for number in range(12):
        Image.fromarray(blocks(32, 32, number)).save(tmp_path / f"{number:02}.png")
    call = ["predict", str(tmp_path), "--model", "custom_cnn"]
    assert main(call) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 12
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    captured_stderr = os.dup(2)
    os.dup2(terminal, 2)
    try:
        assert main(call) == 0
    finally:
        os.dup2(captured_stderr, 2)
    assert b"picture/s" in os.read(screen, 10_000)


@pytest.mark.usefixtures("shipped")
def test_control_c_is_quiet(album, monkeypatch, capfd):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "classify", interrupt)
    assert main(["predict", str(album)]) == 130
    assert capfd.readouterr().err == ""


def test_missing_models_exit_with_2_and_a_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("no_such_model", "../models/custom_cnn"):
        assert main(["predict", "a.png", "--model", name]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cifar-compare: ")
        assert name in line


@pytest.mark.usefixtures("shipped")
def test_models_lists_what_is_shipped(models_folder, capfd):
    assert main(["models"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["custom_cnn", "95.12%"], ["mobilenet_v2", "95.12%"]]
    assert lines[0].endswith(str(models_folder / "custom_cnn.keras"))


def test_a_reader_that_leaves_is_no_error(models_folder):
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, "models"], env=environment, **pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
