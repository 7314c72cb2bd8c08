"""Find, fetch and verify models: the released ones with their cards and recorded test predictions, and your own."""

import contextlib
import hashlib
import json
import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np

from .system import keras_defaults, path_from, printable, upwards

NAMES = ("custom_cnn", "mobilenet_v2")  # the two that are compared
SHIPPED = (*NAMES, "custom_cnn_robust", "mobilenet_v2_robust")
# Where the files of a release lie, such as https://github.com/OWNER/REPOSITORY/releases/download/v0.1.0; to be set
# when the repository is published. CIFAR_COMPARE_WEIGHTS_URL goes before it.
RELEASE_URL = None

_CHECKOUT = Path(__file__).resolve().parents[2] / "models"
_CARDS = Path(__file__).resolve().parent / "cards"  # put into the wheel by pyproject.toml, without the weights
_POINTER = b"version https://git-lfs.github.com/spec/"
_TIMEOUT = (5, 60)  # seconds to connect, and between two arrivals of bytes


class ArtefactError(RuntimeError):
    """A model's file is missing or not what its card says; the message says what to do."""


@keras_defaults()
def load_model(model):
    """Load a released model, or one of your own, after checking its bytes against its card.

    A released model whose file is not on this machine is downloaded once, and kept in the user's cache folder.

    Args:
        model: one of SHIPPED, or any NAME whose card `NAME.json` lies in a models folder: the one that
            CIFAR_COMPARE_MODELS names, where it is set; else the checkout's, then a `models/` in the working directory
            or above it. Or the path of a `.keras` file (it has a separator or this ending): where a card of the same
            name lies beside it, the file is verified; otherwise a warning tells that it is not.

    Returns:
        `keras.Model`, uncompiled. Released ones take RGB pixels in [0, 255], uint8 or float32, shape
        `(n, height, width, 3)`, any height and width, and give calibrated class probabilities, float32, `(n, 10)`.

    Raises:
        ArtefactError: nothing found or nothing to be had from the network, a Git LFS pointer in place of the weights,
            a truncated or altered file, or one that Keras cannot load without running code of its own.
    """
    path, card = path_of(model), find_card(model)
    if card:
        path = verify(model, card)
    elif path.suffix != ".keras" or not os.path.isfile(path):
        missing = "is no .keras file: save the model with model.save" if os.path.exists(path) else "does not exist"
        raise ArtefactError(f"{printable(path, 200)} {missing}")
    else:
        warnings.warn(f"{path} is unverified: there is no card {path.stem}.json beside it", stacklevel=3)
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and the zip and HDF5 readers below it raise nearly anything
        reason = printable(str(error).split("\n")[0].split(". ")[0] or type(error).__name__, 200)
        raise ArtefactError(
            f"cannot load {printable(path, 200)}: it is damaged, made by another version of Keras, or needs code of "
            f"its own, which is not run ({reason})"
        ) from None


def load_card(model):
    """Load the card of a model: how it was made and what it measured.

    Returns:
        dict as in `models/NAME.json`; the fields are described in `models/README.md`. One key is added: `folder`, the
        folder it was found in.

    Raises:
        ArtefactError: no such card, or it is not readable as one.
    """
    if card := find_card(model):
        return card
    raise ArtefactError(f"there is no card beside {printable(path_of(model), 200)}")


def find_card(model):
    """As `load_card`, but an empty dict for the path of a model that has no card beside it."""
    if path := path_of(model):
        path = path.with_suffix(".json")
        if not os.path.isfile(path):  # which is quiet about names that no file can have
            return {}
    else:
        path = _folder_of(model) / f"{model}.json"
    try:
        card = {**json.loads(path.read_bytes()), "folder": str(path.parent)}
        for part, figure in (("test", "accuracy"), ("out_of_distribution", "threshold")):
            float(card.get(part, {figure: 0})[figure])
        if not isinstance(card.get("classes", []), list):
            raise TypeError("its classes are no list")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtefactError(f"{path} is not a readable card ({error}); restore it with `git checkout`") from None
    if path_of(model) and card.get("file") != path_of(model).name:
        raise ArtefactError(
            f"{path} is not the card of {path_of(model).name}, but of {card.get('file')!r:.80}; move it"
        )
    return card


def path_of(model):
    """The absolute path of a model that was given by its path, `~` expanded; None for one given by its name."""
    if not isinstance(model, str | os.PathLike):
        raise ArtefactError(f"model is a {type(model).__name__}, expected its name or the path of its file")
    text = os.fspath(model)
    if isinstance(model, str) and not text.endswith(".keras") and not {os.sep, "/"} & set(text):
        return None
    return Path(os.path.abspath(os.path.expanduser(text)))


def load_predictions(model):
    """Load the recorded answers of a released model to the 10,000 test images, so that statistics need no data set.

    Returns:
        `Result` as of `evaluate`, in the order of CIFAR-10's `test_batch`.

    Raises:
        ArtefactError: as of `load_model`.
    """
    from .evaluation import score

    card = load_card(model)
    path = verify(model, card, "test_predictions")
    with np.load(path, allow_pickle=False) as file:
        recorded_for = str(file["model_sha256"])
        if recorded_for != card["sha256"]:
            raise ArtefactError(f"{path} was recorded for another model ({recorded_for[:12]}…); run `make results`")
        return score(file["probabilities"], file["labels"], card.get("classes"))


def verify(model, card, part=None, fetch=True):
    """Check the size and SHA-256 of a file that a card names, before anybody parses it.

    Args:
        model: str or path, as in `load_model`, for the messages.
        card: dict, as of `load_card`.
        part: None for the model file itself, or the card's entry of another file, such as "test_predictions".
        fetch: bool, whether to download what an installed package lacks; without it the answer is None then.

    Returns:
        `pathlib.Path` of the verified file.

    Raises:
        ArtefactError: the file is missing, a Git LFS pointer, truncated, altered, or outside the card's folder.
    """
    entry = card.get(part) if part else card
    try:
        file, size, digest = str(entry["file"]), int(entry["bytes"]), str(entry["sha256"])
    except (TypeError, KeyError, ValueError, OverflowError):
        raise ArtefactError(
            f"the card of '{model}' names no {part or 'model'} file with its bytes and sha256"
        ) from None
    if Path(file).name != file or file in ("", ".", ".."):
        raise ArtefactError(f"the card of '{model}' names {file!r}, which is not a plain file name; restore the card")
    path = Path(card["folder"]) / file
    if path.parent == _CARDS:
        path = _released(file, digest, fetch)
        if path is None:
            return None
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


def _released(file, digest, fetch):
    """The path of a released file in the user's cache, downloaded where it is missing or not what its card says."""
    import pooch

    folder = Path(pooch.os_cache("cifar-compare"))
    with contextlib.suppress(OSError):
        if pooch.file_hash(folder / file) == digest:
            return folder / file
    if not fetch:
        return None
    given = os.environ.get("CIFAR_COMPARE_WEIGHTS_URL") or RELEASE_URL
    remedy = "Set CIFAR_COMPARE_WEIGHTS_URL to the address of a folder that has it, or CIFAR_COMPARE_MODELS to the "
    remedy += "models folder of a clone"
    if given is None:
        raise ArtefactError(f"{file} is not in {folder}, and this version names no address to fetch it from. {remedy}")
    url = f"{given.rstrip('/')}/{file}"
    if not url.startswith(("https://", "http://")):
        raise ArtefactError(f"{given!r:.200} is no address to fetch {file} from, expected https://…. {remedy}")
    try:
        get = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT, chunk_size=1 << 18)
        return Path(pooch.retrieve(url, f"sha256:{digest}", file, folder, downloader=get))
    except (OSError, ValueError) as error:
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 300)
        raise ArtefactError(f"{file} could not be fetched from {url} ({reason}). {remedy}") from None


def _folder_of(name):
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):
        known = f"{', '.join(SHIPPED)} are released, and the path of your own ends in .keras"
        raise ArtefactError(f"{printable(repr(name), 100)} is not the name of a model; {known}")
    given, here = path_from("CIFAR_COMPARE_MODELS"), upwards("models")
    for place in [given] if given else [_CHECKOUT, *here, _CARDS]:
        with contextlib.suppress(OSError):  # no permission to look inside
            if (place / f"{name}.json").is_file():
                return Path(os.path.abspath(place))
    if given:
        raise ArtefactError(
            f"no card {name}.json found in {os.path.abspath(given)}, which CIFAR_COMPARE_MODELS names, and which is "
            "the only place then; set it to the models folder of a clone, or unset it"
        )
    raise ArtefactError(
        f"no card {name}.json found: CIFAR_COMPARE_MODELS is not set, and it is not in the checkout, {_CHECKOUT}; in "
        f"models/ upwards from {here[0].parent}; or among those of the package, {_CARDS}. Released are "
        f"{', '.join(SHIPPED)}"
    )
