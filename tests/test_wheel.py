import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
PICTURE = ROOT / "test_images" / "cat_test.jpg"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a wheel is built from, in a folder of its own, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src" / "cifar_compare", folder / "src" / "cifar_compare")
    (folder / "models").mkdir()
    for path in MODELS.iterdir():
        (folder / "models" / path.name).write_bytes(path.read_bytes() if path.suffix == ".json" else b"")
    return folder


def pip(*arguments):
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", arguments[0], *options, *arguments[1:]], check=True)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The package as a wheel puts it on a machine that has no checkout."""
    target = tmp_path_factory.mktemp("site")
    pip("install", "--target", target, wheel)
    return target


@pytest.fixture(scope="module")
def address():
    """Of a server on this machine that has the files of a release."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(MODELS)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(installed, folder, code, *arguments, **settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CIFAR_COMPARE_")}
    environment |= {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache"), **settings}
    code = f"import sys, cifar_compare as cc; print(cc.__file__, file=sys.stderr); {code}"
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=folder)
    assert str(installed) in done.stderr  # and not the checkout that the tests run in
    return done


COMMAND = "from cifar_compare.cli import main; sys.exit(main())"


def test_the_wheel_holds_the_cards_and_no_weights(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    cards = {f"cifar_compare/cards/{path.name}" for path in MODELS.glob("*.json")}
    assert cards
    assert {name for name in names if "cards/" in name} == cards
    assert not [name for name in names if name.endswith((".keras", ".npz"))]
    source = ROOT / "src"
    modules = {path.relative_to(source).as_posix() for path in source.glob("cifar_compare/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert wheel.stat().st_size < 300_000


def test_installed_elsewhere_it_fetches_its_weights_once(installed, tmp_path, address):
    call = (COMMAND, "predict", "--model", "custom_cnn", PICTURE)
    first = run(installed, tmp_path, *call, CIFAR_COMPARE_WEIGHTS_URL=address)
    assert first.returncode == 0, first.stderr
    assert "cat_test.jpg" in first.stdout
    assert "%" in first.stdout
    again = run(installed, tmp_path, *call, CIFAR_COMPARE_WEIGHTS_URL="http://127.0.0.1:9")
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


def test_recorded_answers_are_fetched_too(installed, tmp_path, address):
    code = "print(cc.load_predictions('custom_cnn').accuracy, cc.load_card('custom_cnn')['test']['accuracy'])"
    done = run(installed, tmp_path, code, CIFAR_COMPARE_WEIGHTS_URL=address)
    assert done.returncode == 0, done.stderr
    accuracy, told = done.stdout.split()
    assert float(accuracy) == pytest.approx(float(told))


def test_models_of_a_clone_are_used_where_they_are_named(installed, tmp_path):
    done = run(
        installed, tmp_path, COMMAND, "predict", "--model", "custom_cnn", PICTURE, CIFAR_COMPARE_MODELS=str(MODELS)
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache" / "cifar-compare").exists()


def test_without_an_address_it_explains_itself(installed, tmp_path):
    done = run(installed, tmp_path, COMMAND, "predict", PICTURE)
    assert done.returncode == 2
    assert "Set CIFAR_COMPARE_WEIGHTS_URL to the address of a folder that has it" in done.stderr
    assert "Traceback" not in done.stderr
