"""Find and verify what is shipped in `models/`: weights, cards and recorded test predictions."""

import contextlib
import hashlib
import json
import os
import re
import stat
from pathlib import Path

import numpy as np

NAMES = ("custom_cnn", "mobilenet_v2")  # the two that are compared
SHIPPED = (*NAMES, "mobilenet_v2_robust")

_POINTER = b"version https://git-lfs.github.com/spec/"


class ArtefactError(RuntimeError):
    """A shipped file is missing or not what its card says; the message says what to do."""


def load_model(name):
    """Load a shipped model after checking its bytes against its card.

    Args:
        name: one of SHIPPED, or any NAME whose card `NAME.json` lies in a models folder: the one that
            CIFAR_COMPARE_MODELS names, then the checkout's, then a `models/` in the working directory or above it.

    Returns:
        `keras.Model`, uncompiled: RGB pixels in [0, 255], uint8 or float32, shape `(n, height, width, 3)`, any height
        and width; to calibrated class probabilities, float32, shape `(n, 10)`.

    Raises:
        ArtefactError: nothing found, a Git LFS pointer in place of the weights, or a truncated or altered file.
    """
    path = verify(name, load_card(name))
    import keras

    return keras.saving.load_model(path, compile=False, safe_mode=True)


def load_card(name):
    """Load the card of a shipped model: how it was made and what it measured.

    Returns:
        dict as in `models/NAME.json`; the fields are described in `models/README.md`. One key is added: `folder`, the
        models folder it was found in.

    Raises:
        ArtefactError: no such card, or it is not readable as one.
    """
    folder = _folder_of(name)
    path = folder / f"{name}.json"
    try:
        card = {**json.loads(path.read_bytes()), "folder": str(folder)}
        for part, figure in (("test", "accuracy"), ("unlike", "threshold")):
            float(card.get(part, {figure: 0})[figure])
        return card
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtefactError(f"{path} is not a readable card ({error}); restore it with `git checkout`") from None


def load_predictions(name):
    """Load the recorded answers of a shipped model to the 10,000 test images, so that statistics need no data set.

    Returns:
        `Result` as of `evaluate`, in the order of CIFAR-10's `test_batch`.

    Raises:
        ArtefactError: as of `load_model`.
    """
    from .evaluation import score

    card = load_card(name)
    path = verify(name, card, "test_predictions")
    with np.load(path, allow_pickle=False) as file:
        recorded_for = str(file["model_sha256"])
        if recorded_for != card["sha256"]:
            raise ArtefactError(f"{path} was recorded for another model ({recorded_for[:12]}…); run `make results`")
        return score(file["probabilities"], file["labels"])


def export(name, path, precision="float32"):
    """Write the sub-model `network` of a shipped model for LiteRT, which runs on phones and without TensorFlow.

    The entry stays behind, because LiteRT has no antialiased resize: feed float32 pixels in [0, 255] of shape
    `(n, size, size, 3)`, size being the card's `working_size`, and get probabilities, float32, `(n, 10)`.

    Args:
        name: as in `load_model`, and its errors.
        path: str or path of the file to write, ending in ".tflite".
        precision: of the weights: "float32", "float16" (half the size) or "int8" (a quarter; one scale a channel,
            activations are quantised as they come).

    Raises:
        ValueError: another precision or ending.
        FileNotFoundError: the folder to write to does not exist.
    """
    if precision not in ("float32", "float16", "int8") or not str(path).endswith(".tflite"):
        raise ValueError(
            f"got {precision!r} and {str(path)!r}, expected float32, float16 or int8, and a name in .tflite"
        )
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(path).absolute().parent} to write to; make it first")
    size = load_card(name)["working_size"]
    network = load_model(name).get_layer("network")
    import keras
    import tensorflow as tf  # the converter's settings have no counterpart in Keras

    settings = {} if precision == "float32" else {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if precision == "float16":
        settings["target_spec"] = {"supported_types": [tf.float16]}
    signature = [keras.InputSpec(dtype="float32", shape=(None, size, size, 3), name="pixels")]
    network.export(path, format="litert", verbose=False, input_signature=signature, **settings)


def verify(name, card, part=None):
    """Check the size and SHA-256 of a file that a card names, before anybody parses it.

    Args:
        name: str, name of the model, for the messages.
        card: dict, as of `load_card`.
        part: None for the model file itself, or the card's entry of another file, such as "test_predictions".

    Returns:
        `pathlib.Path` of the verified file.

    Raises:
        ArtefactError: the file is missing, a Git LFS pointer, truncated, altered, or outside the card's folder.
    """
    entry = card.get(part) if part else card
    try:
        file, size, digest = str(entry["file"]), int(entry["bytes"]), str(entry["sha256"])
    except (TypeError, KeyError, ValueError, OverflowError):
        raise ArtefactError(f"the card of '{name}' names no {part or 'model'} file with its bytes and sha256") from None
    if Path(file).name != file or file in ("", ".", ".."):
        raise ArtefactError(f"the card of '{name}' names {file!r}, which is not a plain file name; restore the card")
    path = Path(card["folder"]) / file
    try:
        status = path.stat()  # before opening, which can block on a pipe
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        with open(path, "rb") as opened:
            content = opened.read(max(0, min(size, status.st_size)) + 1)  # one more byte shows that it is too long
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtefactError(f"cannot read {path} ({reason}); restore it with `git checkout`") from None
    if content.startswith(_POINTER):
        raise ArtefactError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` and try again")
    if len(content) < size:
        raise ArtefactError(f"{path} is truncated: {len(content)} of {size} bytes; restore it with `git checkout`")
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtefactError(
            f"{path} was altered: its SHA-256 is not the one on its card ({digest[:12]}…); "
            "restore it with `git checkout`, or run `make results` after a training of your own"
        )
    return path


def _folder_of(name):
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", str(name)):
        raise ArtefactError(f"{name!r} is not the name of a model; shipped are {', '.join(SHIPPED)}")
    given = os.environ.get("CIFAR_COMPARE_MODELS")
    checkout = Path(__file__).resolve().parents[2] / "models"
    here = Path(os.path.abspath(os.curdir)) if os.path.exists(os.curdir) else Path("/")  # it may have been deleted
    places = [Path(given)] if given else []
    places += [checkout, *(folder / "models" for folder in (here, *here.parents))]
    for place in places:
        with contextlib.suppress(OSError):  # no permission to look inside
            if (place / f"{name}.json").is_file():
                return place
    raise ArtefactError(
        f"no card {name}.json found: looked in CIFAR_COMPARE_MODELS, which is {given or 'not set'}; in the checkout, "
        f"{checkout}; and in models/ upwards from {here}. Set CIFAR_COMPARE_MODELS to the models folder of a clone"
    )
