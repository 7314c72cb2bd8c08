"""Command line, `cc.predict` and plain Keras give the same answers on the pictures that are shipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cifar_compare as cc
from cifar_compare.artefacts import NAMES

ROOT = Path(__file__).resolve().parents[1]
PICTURES = [ROOT / "test_images" / name for name in ("airplane_test.jpg", "cat_test.jpg", "truck_9_sample.png")]
COMMAND = "from cifar_compare.cli import main; raise SystemExit(main())"
PLAIN = """
import json, sys
import keras
import numpy as np
from PIL import Image

folder, names, paths = json.loads(sys.argv[1])
answers = {}
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    answers[name] = [np.asarray(model(np.array(Image.open(path))[None]))[0].tolist() for path in paths]
assert not [module for module in sys.modules if module.startswith("cifar_compare")]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    """Probabilities (3, 10) by way and model, each way in a process of its own."""
    paths = [str(path) for path in PICTURES]
    ours = {k: v for k, v in os.environ.items() if k != "CIFAR_COMPARE_MODELS"}
    # Importing cifar_compare sets it; whoever has nothing of ours has it not.
    bare = {k: v for k, v in ours.items() if k != "TF_ENABLE_ONEDNN_OPTS"}

    def run(environment, code, *arguments):
        call = [sys.executable, "-c", code, *arguments]
        return json.loads(subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout)

    records = run(ours, COMMAND, "predict", *paths, "--model", "all", "--json")
    line = {name: [list(r["probabilities"].values()) for r in records if r["model"] == name] for name in NAMES}
    plain = run(bare, PLAIN, json.dumps([str(ROOT / "models"), NAMES, paths]))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CIFAR_COMPARE_MODELS", raising=False)
        called = {name: [answer.probabilities for answer in cc.predict(name, paths)] for name in NAMES}
    return {"command line": line, "plain Keras": plain, "cc.predict": called}


@pytest.mark.parametrize("name", NAMES)
def test_three_ways_give_the_same_probabilities(answers, name):
    expected = np.array(answers["cc.predict"][name])
    assert expected.shape == (3, 10)
    for way, by_model in answers.items():
        np.testing.assert_allclose(by_model[name], expected, rtol=0, atol=1e-5, err_msg=way)
