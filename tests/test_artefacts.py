import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from picture_models import save_tiny_models, tiny_network, write_card

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
        *('{"out_of_distribution": 3}', '{"out_of_distribution": {}}', '{"test": {"accuracy": "high"}}'),
        '{"classes": "cat"}',
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


@pytest.mark.parametrize("name", ["", "..", "a b", "tiny.h5", "a" * 300])
def test_name_cannot_leave_the_folder(name):
    with pytest.raises(ArtefactError, match="not the name of a model"):
        cc.load_model(name)


def test_names_that_no_file_can_have_are_refused_and_cut():
    for name in ("x" * 300 + ".keras", "x" * 100_000 + ".keras", "a/" * 5000 + "b"):
        for load in (cc.load_model, cc.load_card):
            with pytest.raises(ArtefactError) as caught:
                load(name)
            assert len(str(caught.value)) < 400


def test_a_home_that_does_not_exist_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*~no_such_user"):
        cc.export("custom_cnn", "~no_such_user/x.tflite")
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "~no_such_user/models")
    with pytest.raises(ArtefactError, match="~no_such_user/models, which CIFAR_COMPARE_MODELS names"):
        cc.load_card("custom_cnn")


def test_the_error_names_every_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR_COMPARE_MODELS", raising=False)
    with pytest.raises(ArtefactError, match=f"MODELS is not set.*checkout.*upwards from {tmp_path}.*of the package"):
        cc.load_model("unheard_of")


def test_a_models_folder_that_was_set_is_the_only_place(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "/nowhere")
    with pytest.raises(ArtefactError, match=r"no card custom_cnn\.json found in /nowhere, which CIFAR_COMPARE_MODELS"):
        cc.load_model("custom_cnn")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "~/elsewhere")
    with pytest.raises(ArtefactError, match=f"found in {tmp_path}/elsewhere"):
        cc.load_model("custom_cnn")
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", "")
    assert cc.load_card("custom_cnn")["name"] == "custom_cnn"


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


def run_litert(path, pixels):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(str(path))
    (given,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], pixels)
    interpreter.invoke()
    return interpreter.get_tensor(told["index"])


@pytest.fixture(scope="module")
def pixels():
    return cc.make_toy_data(train=10, validation=10, test=10).test.images.astype("float32")


@pytest.mark.parametrize(
    ("precision", "bits", "apart"), [("float32", 32, 1e-4), ("float16", 16, 0.05), ("int8", 8, 0.2)]
)
def test_an_exported_network_answers_like_the_released_one(precision, bits, apart, tmp_path, pixels):
    cc.export("custom_cnn", tmp_path / "cnn.tflite", precision)
    card = cc.load_card("custom_cnn")
    assert (tmp_path / "cnn.tflite").stat().st_size == pytest.approx(card["parameters"] * bits / 8, rel=0.05)
    expected = cc.load_model("custom_cnn")(pixels)
    np.testing.assert_allclose(run_litert(tmp_path / "cnn.tflite", pixels), expected, atol=apart)


@pytest.mark.filterwarnings("ignore:.*is unverified")
def test_a_model_of_ones_own_is_exported(tmp_path, pixels):
    model = cc.with_preprocessing(tiny_network(classes=3))
    model.save(tmp_path / "own.keras")
    for given in (model, tmp_path / "own.keras"):
        cc.export(given, tmp_path / "own.tflite")
        np.testing.assert_allclose(run_litert(tmp_path / "own.tflite", pixels), model(pixels), atol=1e-4)
    with pytest.raises(ValueError, match="with_preprocessing"):
        cc.export(tiny_network(), tmp_path / "own.tflite")


def test_export_says_what_it_takes(tmp_path):
    with pytest.raises(ValueError, match=r"'bfloat16'.*expected float32, float16 or int8"):
        cc.export("custom_cnn", tmp_path / "cnn.tflite", "bfloat16")
    with pytest.raises(ValueError, match=r"cnn\.onnx.*\.tflite"):
        cc.export("custom_cnn", tmp_path / "cnn.onnx")


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.keras"
    cc.with_preprocessing(tiny_network(classes=2)).save(path)
    return path


def test_a_file_without_a_card_is_told_as_unverified(own, monkeypatch, recwarn):
    monkeypatch.chdir(own.parent)
    monkeypatch.setenv("HOME", str(own.parent))
    for given in (own, str(own), "own.keras", "~/own.keras"):
        with pytest.warns(UserWarning, match=r"own\.keras is unverified: there is no card own\.json beside it"):
            assert cc.load_model(given).output_shape == (None, 2)
        with pytest.raises(ArtefactError, match="no card beside"):
            cc.load_card(given)
    write_card(own)
    recwarn.clear()
    assert cc.load_model(own).output_shape == (None, 2)
    assert not [warning for warning in recwarn if "unverified" in str(warning.message)]


def test_a_file_is_verified_against_the_card_beside_it(own):
    write_card(own)
    own.write_bytes(own.read_bytes() + b"!")
    with pytest.raises(ArtefactError, match="was altered"):
        cc.load_model(own)
    own.with_suffix(".json").write_text('{"file": "another.keras"}')
    with pytest.raises(ArtefactError, match=r"not the card of own\.keras, but of 'another\.keras'"):
        cc.load_model(own)


@pytest.mark.filterwarnings("ignore:.*is unverified")
def test_files_that_are_no_models_have_one_line(tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "old.h5").write_bytes(b"\x89HDF")
    for file, message in (
        ("text.keras", "cannot load .*damaged"),
        ("old.h5", "is no .keras file"),
        ("missing.keras", "does not exist"),
        ("missing", "does not exist"),
    ):
        with pytest.raises(ArtefactError, match=message) as caught:
            cc.load_model(tmp_path / file)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*is unverified")
def test_code_inside_a_file_is_not_run(tmp_path):
    import keras

    class OfTheirOwn(keras.layers.Layer):
        pass

    for name, layer in (("lambda", keras.layers.Lambda(lambda x: x)), ("class", OfTheirOwn())):
        path = tmp_path / f"{name}.keras"
        keras.Sequential([keras.Input((32, 32, 3)), layer]).save(path)
        with pytest.raises(ArtefactError, match="needs code of its own, which is not run") as caught:
            cc.load_model(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.fixture
def released(tmp_path, monkeypatch):
    """As in an installed package: cards alone, an empty cache, and a server that has the files. Gives its folder."""
    import http.server
    import threading

    import pooch

    served, cards = tmp_path / "served", tmp_path / "cards"
    served.mkdir()
    cards.mkdir()
    save_tiny_models(served)
    card = json.loads((served / "custom_cnn.json").read_text())
    answers = served / "custom_cnn.test_predictions.npz"
    np.savez(answers, probabilities=np.eye(10), labels=np.arange(10), model_sha256=card["sha256"])
    content = answers.read_bytes()
    entry = {"file": answers.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (cards / "custom_cnn.json").write_text(json.dumps(card | {"test_predictions": entry}))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR_COMPARE_MODELS", raising=False)
    monkeypatch.setenv("CIFAR_COMPARE_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("cifar_compare.artefacts._CHECKOUT", tmp_path / "missing")
    monkeypatch.setattr("cifar_compare.artefacts._CARDS", cards)
    yield served
    server.shutdown()
    server.server_close()


def test_released_files_are_fetched_once_and_kept(released, tmp_path, capfd):
    from cifar_compare.cli import main

    assert verify("custom_cnn", cc.load_card("custom_cnn"), fetch=False) is None
    main(["models"])
    assert "(is downloaded when it is first used)" in capfd.readouterr().out
    assert not (tmp_path / "cache").exists()
    assert cc.load_model("custom_cnn").output_shape == (None, 10)
    assert cc.load_predictions("custom_cnn").accuracy == 1
    kept = tmp_path / "cache" / "cifar-compare"
    assert verify("custom_cnn", cc.load_card("custom_cnn")) == kept / "custom_cnn.keras"
    for file in list(released.iterdir()):
        file.unlink()
    assert cc.load_model("custom_cnn").output_shape == (None, 10)
    assert cc.load_predictions("custom_cnn").accuracy == 1


@pytest.mark.usefixtures("released")
def test_what_was_fetched_needs_no_address(monkeypatch):
    cc.load_model("custom_cnn")
    monkeypatch.delenv("CIFAR_COMPARE_WEIGHTS_URL")
    assert cc.load_model("custom_cnn").output_shape == (None, 10)


def test_what_was_altered_in_the_cache_is_fetched_anew(released, tmp_path):
    cc.load_model("custom_cnn")
    kept = tmp_path / "cache" / "cifar-compare" / "custom_cnn.keras"
    kept.write_bytes(b"altered")
    cc.load_model("custom_cnn")
    assert kept.read_bytes() == (released / "custom_cnn.keras").read_bytes()


@pytest.mark.parametrize("load", [cc.load_model, cc.load_predictions])
def test_other_bytes_than_the_cards_are_refused(released, tmp_path, load):
    for file in released.iterdir():
        file.write_bytes(b"other bytes")
    with pytest.raises(ArtefactError, match=r"could not be fetched from http://127.*SHA256 hash of downloaded file"):
        load("custom_cnn")
    assert not list((tmp_path / "cache" / "cifar-compare").glob("custom*"))


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", r"custom_cnn\.keras could not be fetched from http://127\.0\.0\.1:9/.*refused"),
        ("ftp://example.org", "'ftp://example.org' is no address"),
        ("", "this version names no address"),
    ],
)
def test_without_a_server_the_error_says_what_to_do(url, message, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_WEIGHTS_URL", url)
    with pytest.raises(ArtefactError, match=message) as caught:
        cc.load_model("custom_cnn")
    assert "Set CIFAR_COMPARE_WEIGHTS_URL to the address" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_server_lacks_is_named(released):
    (released / "custom_cnn.keras").unlink()
    with pytest.raises(ArtefactError, match=r"could not be fetched from http://127.*404"):
        cc.load_model("custom_cnn")
