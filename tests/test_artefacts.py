import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from picture_models import save_tiny_models

import cifar_compare as cc
from cifar_compare.artefacts import ArtefactError, verify

FUZZ_CASES = int(os.environ.get("FUZZ_CASES", "400"))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A models folder with a small file as "tiny", and what is needed to alter it."""
    content = bytes(range(256)) * 20
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.keras").write_bytes(content)
    card = {"file": "tiny.keras", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "tiny.json").write_text(json.dumps(card))
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(folder))
    return folder


def test_intact_file_is_verified(shipped):
    assert verify("tiny", cc.load_card("tiny")) == shipped / "tiny.keras"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (lambda b: b[:-100], "truncated: 5020 of 5120 bytes"),
        (lambda b: b"", "truncated: 0 of 5120 bytes"),
        (lambda b: b[:50] + b"!" + b[51:], "was altered"),
        (lambda b: b + b"!", "was altered"),
    ],
)
def test_damage_has_an_error_of_its_own(shipped, damage, message):
    path = shipped / "tiny.keras"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match=message):
        cc.load_model("tiny")


def test_mutated_weights_and_cards_are_never_parsed(tmp_path, monkeypatch, capfd):
    import keras

    save_tiny_models(tmp_path)
    model, card = tmp_path / "custom_cnn.keras", tmp_path / "custom_cnn.json"
    originals = {path: path.read_bytes() for path in (model, card)}
    parsed = []
    monkeypatch.setattr(keras.saving, "load_model", lambda path, **_: parsed.append(path.read_bytes()))
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path))
    refused = 0
    for case in range(FUZZ_CASES):
        draw = np.random.default_rng(case)
        for path, original in originals.items():
            content = bytearray(original)
            if draw.random() < 0.7:
                for place in draw.integers(len(content), size=draw.integers(1, 9)):
                    content[place : place + draw.integers(2)] = draw.bytes(draw.integers(3))
                content = content[: draw.integers(len(content) + 1)] if draw.random() < 0.3 else content
            path.write_bytes(content)
        try:
            cc.load_model("custom_cnn")
        except ArtefactError:
            refused += 1
        except BaseException as error:
            pytest.fail(f"case {case} raised {error!r}")
    assert len(parsed) == FUZZ_CASES - refused
    assert set(parsed) == {originals[model]}
    assert refused > FUZZ_CASES / 2
    with capfd.disabled():
        print(f"\n{FUZZ_CASES} mutated weights and cards: {len(parsed)} whole, {refused} refused")


def test_weights_that_are_no_regular_file_do_not_block(shipped):
    (shipped / "tiny.keras").unlink()
    os.mkfifo(shipped / "tiny.keras")
    with pytest.raises(ArtefactError, match="no regular file"):
        cc.load_model("tiny")


@pytest.mark.parametrize("file", ["../tiny.keras", "/etc/passwd", "..", "", "sub/tiny.keras"])
def test_card_cannot_name_a_file_elsewhere(shipped, file):
    card = json.loads((shipped / "tiny.json").read_text()) | {"file": file}
    (shipped / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="not a plain file name"):
        cc.load_model("tiny")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "\x00", "[" * 100_000),
        *('{"file": "tiny.keras"}', '{"file": 1, "bytes": "x"}', '{"file": "a", "bytes": 1e999, "sha256": ""}'),
        *('{"unlike": 3}', '{"unlike": {}}', '{"test": {"accuracy": "high"}}'),
        *('{"file": "a\\u0000", "bytes": 1, "sha256": ""}', '{"file": "\\ud800", "bytes": 1, "sha256": ""}'),
    ],
)
def test_bad_card_is_reported(shipped, text):
    (shipped / "tiny.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"card|cannot read"):
        cc.load_model("tiny")


def test_missing_file_is_named(shipped):
    (shipped / "tiny.keras").unlink()
    with pytest.raises(ArtefactError, match=r"tiny\.keras.*No such file"):
        cc.load_model("tiny")


@pytest.mark.parametrize("name", ["", "../tiny", "a b", "tiny.keras", "a" * 300])
def test_name_cannot_leave_the_folder(name):
    with pytest.raises(ArtefactError, match="not the name of a model"):
        cc.load_model(name)


def test_the_error_names_all_three_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "/nowhere")
    with pytest.raises(ArtefactError, match=f"/nowhere.*checkout.*upwards from {tmp_path}"):
        cc.load_model("unheard_of")


def test_a_models_folder_above_the_working_directory_is_found(shipped, monkeypatch):
    monkeypatch.delenv("CIFAR_COMPARE_MODELS")
    below = shipped.parent / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert cc.load_card("tiny")["folder"] == str(shipped)


def test_predictions_of_another_model_are_refused(shipped):
    path = shipped / "tiny.test_predictions.npz"
    np.savez(path, probabilities=np.full((10, 10), 0.1), labels=np.arange(10), model_sha256="0" * 64)
    content = path.read_bytes()
    entry = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    card = json.loads((shipped / "tiny.json").read_text()) | {"test_predictions": entry}
    (shipped / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="another model"):
        cc.load_predictions("tiny")


def test_importing_the_package_imports_no_framework():
    code = "import sys, cifar_compare; print([m for m in ('tensorflow', 'keras', 'numpy', 'jax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="load_cifar10"):
        cc.load_cifar100  # noqa: B018
    assert set(cc.__all__) <= set(dir(cc))
    assert all(getattr(cc, name) is not None for name in cc.__all__)


@pytest.mark.parametrize(
    ("precision", "bits", "apart"), [("float32", 32, 1e-4), ("float16", 16, 0.05), ("int8", 8, 0.2)]
)
def test_an_exported_network_answers_like_the_shipped_one(precision, bits, apart, tmp_path):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    cc.export("custom_cnn", tmp_path / "cnn.tflite", precision)
    card = cc.load_card("custom_cnn")
    assert (tmp_path / "cnn.tflite").stat().st_size == pytest.approx(card["parameters"] * bits / 8, rel=0.05)

    pixels = cc.make_toy_data(train=10, validation=10, test=10).test.images.astype("float32")
    interpreter = litert.Interpreter(str(tmp_path / "cnn.tflite"))
    (given,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], pixels)
    interpreter.invoke()
    expected = cc.load_model("custom_cnn")(pixels)
    np.testing.assert_allclose(interpreter.get_tensor(told["index"]), expected, atol=apart)


def test_export_says_what_it_takes(tmp_path):
    with pytest.raises(ValueError, match=r"'bfloat16'.*expected float32, float16 or int8"):
        cc.export("custom_cnn", tmp_path / "cnn.tflite", "bfloat16")
    with pytest.raises(ValueError, match=r"cnn\.onnx.*\.tflite"):
        cc.export("custom_cnn", tmp_path / "cnn.onnx")
