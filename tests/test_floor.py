"""The lowest versions that pyproject.toml admits load and use what is shipped; `make lock` tries the newest."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cifar_compare.artefacts import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

USE = """
import sys
from importlib.metadata import version
import keras, numpy as np
import cifar_compare as cc
from cifar_compare.artefacts import SHIPPED
root, floors = sys.argv[1], dict(pair.split("==") for pair in sys.argv[2:])
assert all(version(name).startswith(floor) for name, floor in floors.items()), "others were used"
for name in SHIPPED:
    plain = keras.saving.load_model(f"{root}/models/{name}.keras")
    (answer,) = cc.predict(name, f"{root}/test_images/cat_test.jpg")
    pixels = np.random.default_rng(0).integers(256, size=(2, 40, 50, 3), dtype=np.uint8)
    np.testing.assert_allclose(plain.predict_on_batch(pixels), cc.load_model(name).predict_on_batch(pixels), atol=1e-6)
    print(name, answer.label)
"""


def test_every_dependency_has_a_floor():
    assert all(re.fullmatch(r"[a-z-]+>=[0-9.]+", each) for each in DEPENDENCIES), DEPENDENCIES


def test_the_lowest_versions_load_and_predict(tmp_path):
    floors = [each.replace(">=", "==") for each in DEPENDENCIES]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), "--only-binary", ":all:"]
    installed = subprocess.run([*pip, *floors], capture_output=True, text=True)
    if installed.returncode and re.search(r"connection|resolve|timed out|retries", installed.stderr, re.IGNORECASE):
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr[-2000:]
    environment = {key: value for key, value in os.environ.items() if key != "CIFAR_COMPARE_MODELS"}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"}
    call = [sys.executable, "-S", "-c", USE, str(ROOT), *floors]  # without site-packages, whose versions are others
    used = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
    shutil.rmtree(tmp_path)  # two gigabytes
    assert used.returncode == 0, used.stderr[-2000:]
    assert used.stdout.count("\n") == len(SHIPPED)
