import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import ArtefactError, verify


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


def test_nothing_is_parsed_before_the_hash_agrees(shipped, monkeypatch):
    import keras

    monkeypatch.setattr(keras.saving, "load_model", lambda *a, **k: pytest.fail("parsed"))
    random = np.random.default_rng(0)
    original = (shipped / "tiny.keras").read_bytes()
    for _ in range(300):
        mutated = bytearray(original)
        for place in random.integers(len(mutated), size=random.integers(1, 9)):
            mutated[place] ^= int(random.integers(1, 256))
        (shipped / "tiny.keras").write_bytes(mutated[: random.integers(len(mutated) + 1)])
        with pytest.raises(ArtefactError):
            cc.load_model("tiny")


@pytest.mark.parametrize("file", ["../tiny.keras", "/etc/passwd", "..", "", "sub/tiny.keras"])
def test_card_cannot_name_a_file_elsewhere(shipped, file):
    card = json.loads((shipped / "tiny.json").read_text()) | {"file": file}
    (shipped / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="not a plain file name"):
        cc.load_model("tiny")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"file": "tiny.keras"}', '{"file": 1, "bytes": "x"}', "\x00"])
def test_bad_card_is_reported(shipped, text):
    (shipped / "tiny.json").write_text(text)
    with pytest.raises(ArtefactError, match="card"):
        cc.load_model("tiny")


def test_missing_file_is_named(shipped):
    (shipped / "tiny.keras").unlink()
    with pytest.raises(ArtefactError, match=r"tiny\.keras.*No such file"):
        cc.load_model("tiny")


@pytest.mark.parametrize("name", ["", "../tiny", "a b", "tiny.keras"])
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
