import csv
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from picture_models import blocks, save_tiny_models, tiny_network, write_card
from PIL import Image
from test_pictures import png_that_claims

import cifar_compare as cc
from cifar_compare import pictures, prediction
from cifar_compare.artefacts import SHIPPED
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


def test_help_imports_nothing_heavy():
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


def test_export_refuses_in_one_line(tmp_path, capfd):
    for arguments, reason in (
        (["no_such_model", "a.tflite"], "no card no_such_model.json"),
        (["custom_cnn", "a.onnx"], "a name that ends in .tflite"),
        (["custom_cnn", str(tmp_path / "missing" / "a.tflite")], "there is no folder"),
    ):
        assert main(["export", *arguments]) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("cifar-compare: ")
        assert captured.err.count("\n") == 1
        assert reason in captured.err


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
            "out_of_distribution",
            "top",
            "probabilities",
        ]
        assert list(record["probabilities"]) == list(CLASSES)
        assert list(row) == [*list(record)[:6], *CLASSES]
        card = json.loads((models_folder / f"{record['model']}.json").read_text())
        assert record["model_sha256"] == row["model_sha256"] == card["sha256"]
        (answer,) = prediction.predict(record["model"], record["picture"])
        plain = keras.saving.load_model(models_folder / f"{record['model']}.keras")
        expected = np.asarray(plain(pictures.read_picture(record["picture"])[None]))[0]
        np.testing.assert_allclose(list(record["probabilities"].values()), expected, atol=1e-5)
        np.testing.assert_allclose([float(row[label]) for label in CLASSES], expected, atol=1e-5)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert record["label"] == row["label"] == answer.label == CLASSES[expected.argmax()]
        assert record["out_of_distribution"] is (record["probability"] < 0.5)
        assert row["out_of_distribution"] == str(record["out_of_distribution"]).lower()
        assert [best["label"] for best in record["top"]] == [label for label, _ in answer.top]
        assert line.startswith(record["picture"][:40])
        assert f"{record['label']:<10} {record['probability']:6.1%}" in line
        assert ("(probably none of the ten classes)" in line) is record["out_of_distribution"]


@pytest.mark.usefixtures("shipped")
def test_same_answers_as_predict_on_the_same_batch(album, capfd):
    main(["predict", str(album), "--json"])
    records = json.loads(capfd.readouterr().out)
    answers = prediction.predict("mobilenet_v2", album)
    assert [list(r["probabilities"].values()) for r in records] == [
        [round(float(p), 9) for p in answer.probabilities] for answer in answers
    ]


def hostile(folder):
    """Twenty things that pretend to be pictures, by name; each with a word of the reason it is to get."""
    png, jpeg, tiff = io.BytesIO(), io.BytesIO(), io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(png, "PNG")
    noise.save(jpeg, "JPEG")
    noise.save(tiff, "TIFF", compression="tiff_lzw")
    png, jpeg, tiff = (file.getvalue() for file in (png, jpeg, tiff))
    strips = b"II*\0" + struct.pack("<IHHHII", 8, 1, 273, 4, 10**6, 26) + bytes(4 * 10**6)
    files = {
        "empty": (b"", "is empty"),
        "gif": (b"GIF89a", "known format"),
        "webp": (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "cut off"),
        "bmp": (b"BM" + bytes(60), "header type"),
        "tiff": (b"II*\0\xff\xff\xff\xff", "known format"),
        "strips": (strips, "a table of 1,000,000 entries"),
        "lzw": (tiff[:8] + bytes(600) + tiff[608:], "cut off"),
        "bomb": (png_that_claims(60_000, 60_000), "67,108,864 pixels"),
        "head": (png[:20], "cut off"),
        "half": (png[: len(png) // 2], "cut off"),
        "start": (jpeg[:30], "cut off"),
        "scan": (jpeg[:700], "cut off"),
        "text": (b"text" * 1000, "known format"),
        "zeros": (bytes(5000), "known format"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "known format"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"),
    }
    for name, (content, _) in files.items():
        (folder / f"{name}\n.png").write_bytes(content)
    (folder / "large\n.png").touch()
    os.truncate(folder / "large\n.png", pictures.MAX_BYTES + 1)
    (folder / "folder\n.png").mkdir()
    (folder / "nowhere\n.png").symlink_to(folder / "missing")
    (folder / "loop\n.png").symlink_to(folder / "loop\n.png")
    others = {"large": "the limit is", "folder": "is a folder", "nowhere": "No such file", "loop": "symbolic links"}
    return {name: word for name, (_, word) in files.items()} | others


def test_one_good_and_twenty_hostile_files(tmp_path, models_folder):
    expected = hostile(tmp_path)
    assert len(expected) == 20
    Image.fromarray(blocks(40, 40)).save(tmp_path / "good.png")
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    run = subprocess.run([*COMMAND, "predict", tmp_path, "--json"], capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    (record,) = json.loads(run.stdout)
    assert record["picture"] == str(tmp_path / "good.png")
    *reasons, summary = run.stderr.splitlines()
    told = {}
    for line in reasons:
        path, _, reason = line.removeprefix(f"cifar-compare: {tmp_path}{os.sep}").partition(": ")
        told[path.removesuffix("\\n.png")] = reason
    assert set(told) == set(expected)
    assert [name for name, word in expected.items() if word not in told[name]] == []
    assert summary == "cifar-compare: 20 of 21 pictures skipped"


MEMORY = """
import os, resource, sys
from cifar_compare.cli import main
main(["predict", *2 * [sys.argv[1]], "--model", "custom_cnn", "--csv"])
few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(["predict", *12 * [sys.argv[1]], "--model", "custom_cnn", "--csv"]) == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - few) / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, models_folder):
    for number in range(40):
        Image.fromarray(blocks(400 + number % 3, 500, number)).save(tmp_path / f"{number}.png")
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    run = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, env=environment)
    *_, more = run.stdout.splitlines()
    assert len(run.stdout.splitlines()) == 1 + 80 + 1 + 480 + 1
    assert float(more) < 80  # MB; the pixels of the 400 pictures more are 240 MB


@pytest.mark.usefixtures("shipped")
def test_nothing_readable_is_still_a_document(tmp_path, capfd):
    for form, expected in (
        ("--json", "[]\n"),
        ("--csv", "picture,model,model_sha256,label,probability,out_of_distribution,"),
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

    monkeypatch.setattr(prediction, "classify", interrupt)
    assert main(["predict", str(album)]) == 130
    assert capfd.readouterr().err == ""


def test_missing_models_exit_with_2_and_a_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("no_such_model", "../models/custom_cnn", "no_such.keras"):
        assert main(["predict", "a.png", "--model", name]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cifar-compare: ")
        assert os.path.basename(name) in line


@pytest.mark.usefixtures("shipped")
def test_models_lists_what_is_shipped(models_folder, capfd):
    assert main(["models"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, "95.12%"] for name in SHIPPED]
    assert lines[0].endswith(str(models_folder / "custom_cnn.keras"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device on this system")
def test_no_room_to_write_is_told_in_a_line(models_folder):
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    with open("/dev/full", "w") as full:
        run = subprocess.run([*COMMAND, "models"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (run.returncode, run.stderr.splitlines()) == (2, [run.stderr.strip()])
    assert "cannot write the answers: [Errno 28] No space left" in run.stderr


def test_a_file_that_cannot_be_opened_is_told_by_its_name(monkeypatch, capfd):
    def refuse(name):
        Path("/no/such/file").read_bytes()

    monkeypatch.setattr("cifar_compare.artefacts.load_card", refuse)
    assert main(["models"]) == 2
    assert capfd.readouterr().err == "cifar-compare: [Errno 2] No such file or directory: '/no/such/file'\n"


def test_any_name_can_be_told_in_any_locale(tmp_path, models_folder):
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)} | plain
    call = [*COMMAND, "predict", str(tmp_path / "猫.png"), "--model", "custom_cnn"]
    run = subprocess.run(call, capture_output=True, env=environment)
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr
    assert run.stderr.splitlines()[0].endswith(b".png: No such file or directory")


def test_a_reader_that_leaves_is_no_error(models_folder):
    environment = {**os.environ, "CIFAR_COMPARE_MODELS": str(models_folder)}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, "models"], env=environment, **pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("module", ["cifar_compare", "cifar_compare.cli"])
def test_python_runs_the_command_by_its_module(module):
    run = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"cifar-compare {cc.__version__}\n")
    run = subprocess.run([sys.executable, "-m", module, "predict", "cat.jpg", "--model", "?"], capture_output=True)
    assert (run.returncode, run.stderr.count(b"\n")) == (2, 1)


def test_a_models_folder_that_was_set_is_never_passed_over(album, monkeypatch, capfd):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "/no/such")
    assert main(["predict", str(album)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "/no/such, which CIFAR_COMPARE_MODELS names" in captured.err


@pytest.mark.usefixtures("shipped")
def test_pictures_that_are_not_read_are_skipped_with_a_line(tmp_path, capfd):
    Image.fromarray(blocks(32, 32)).save(tmp_path / "a.jpg")
    (tmp_path / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert main(["predict", str(tmp_path), "--model", "custom_cnn"]) == 1
    captured = capfd.readouterr()
    assert len(captured.out.splitlines()) == 1
    skipped, summary = captured.err.splitlines()
    assert skipped.endswith("c.HEIC: is HEIC, which is not read here: save it as PNG or JPEG")
    assert summary == "cifar-compare: 1 of 2 pictures skipped"


def save_own(path, classes=3):
    cc.with_preprocessing(tiny_network(classes=classes)).save(path)
    return path


def test_a_model_of_ones_own_is_told_as_unverified(album, tmp_path, capfd):
    path = save_own(tmp_path / "own.keras")
    assert main(["predict", str(album), "--model", str(path), "--csv"]) == 0
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert line == f"cifar-compare: {path} is unverified: there is no card own.json beside it"
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert list(rows[0])[5:] == ["out_of_distribution", "class 0", "class 1", "class 2"]
    assert [(row["model"], row["model_sha256"]) for row in rows] == [("own", "")] * 3


def test_a_card_beside_it_verifies_and_names_the_classes(album, tmp_path, capfd):
    path = save_own(tmp_path / "own.keras", classes=2)
    write_card(path, classes=["cat", "dog"])
    assert main(["predict", str(album), "--model", str(path), "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert [list(record["probabilities"]) for record in json.loads(captured.out)] == [["cat", "dog"]] * 3
    assert [len(record["top"]) for record in json.loads(captured.out)] == [2] * 3
    assert main(["predict", str(album), "--model", str(path), "--top", "3"]) == 2
    assert "top is 3, expected 1 to 2, the number of classes of own" in capfd.readouterr().err
    write_card(path, classes=["cat", "label"])
    assert main(["predict", str(album), "--model", str(path), "--csv"]) == 2
    assert capfd.readouterr().err == "cifar-compare: label: a class has the name of another column; use --json\n"


def test_a_file_that_wants_code_of_its_own_is_refused_in_a_line(album, tmp_path, capfd):
    import keras

    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x)]).save(path)
    for command in (["predict", str(album), "--model", str(path)], ["export", str(path), str(tmp_path / "a.tflite")]):
        assert main(command) == 2
        captured = capfd.readouterr()
        *_, line = captured.err.splitlines()
        assert captured.out == ""
        assert "needs code of its own, which is not run" in line
        assert captured.err.count("\n") == 2  # the other one tells that it is unverified


def test_a_diverged_model_ends_in_a_line(album, tmp_path, capfd):
    model = cc.with_preprocessing(tiny_network())
    model.set_weights([np.full(w.shape, np.nan) for w in model.get_weights()])
    model.save(tmp_path / "own.keras")
    assert main(["predict", str(album), "--model", str(tmp_path / "own.keras")]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "training has diverged" in captured.err.splitlines()[-1]
