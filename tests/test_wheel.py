import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as a wheel puts it on a machine that has no checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src" / "cifar_compare", source / "src" / "cifar_compare")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    return target


def command(installed, folder, *arguments, models=None):
    environment = {k: v for k, v in os.environ.items() if k != "CIFAR_COMPARE_MODELS"}
    environment |= {"PYTHONPATH": str(installed)} | ({"CIFAR_COMPARE_MODELS": str(models)} if models else {})
    code = "import sys, cifar_compare.cli as c; print(c.__file__, file=sys.stderr); sys.exit(c.main())"
    call = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=folder)
    assert str(installed) in done.stderr  # and not the checkout that the tests run in
    return done


def test_installed_elsewhere_it_predicts(installed, tmp_path):
    picture = ROOT / "test_images" / "cat_test.jpg"
    done = command(installed, tmp_path, "predict", "--model", "custom_cnn", str(picture), models=ROOT / "models")
    assert done.returncode == 0, done.stderr
    assert "cat_test.jpg" in done.stdout
    assert "%" in done.stdout


def test_without_models_it_explains_itself(installed, tmp_path):
    done = command(installed, tmp_path, "predict", str(ROOT / "test_images" / "cat_test.jpg"))
    assert done.returncode == 2
    assert "CIFAR_COMPARE_MODELS, which is not set" in done.stderr
    assert "Traceback" not in done.stderr
