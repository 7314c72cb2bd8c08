"""Read and classify people's own pictures: one code path for the notebook and the command line."""

import contextlib
import io
import itertools
import logging
import os
import stat
import struct
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
MAX_PIXELS = 2**26  # 67 million, so that a 50-megapixel photograph passes
MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, uncompressed
BATCH_VALUES = 3 * 2**22  # pixel values in memory at once: 64 pictures of 256×256, or a single photograph
_BITS, _PHOTOMETRIC, _STRIPS, _TILES, _SAMPLE_FORMAT = 258, 262, 273, 324, 339  # TIFF tags
_MAX_STRIPS = 2**16  # of a TIFF: Pillow keeps an object of each, whatever the picture's size


_NO_MEMORY = "needs more memory than there is"


class PictureError(ValueError):
    """A picture cannot be read; the text is one line, `NAME: reason`."""

    def __init__(self, name, reason):
        super().__init__(f"{printable(name)}: {printable(reason)}")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says about one picture.

    Attributes:
        picture: str, path of the file as given; "picture 0", "picture 1" … for arrays and images without one.
        label: str, the most probable class.
        probability: float in 0..1, its calibrated probability.
        top: tuple of (class, probability), most probable first.
        probabilities: float32 `(10,)` in the order of `CLASSES`.
        unlike: bool, the picture is unlike the ten classes: its probability is below the threshold on the
            model's card, as it is for 5 % of the validation images (maximum softmax probability, Hendrycks &
            Gimpel 2017, arXiv:1610.02136). None where the model came as an object, which has no card.
    """

    picture: str
    label: str
    probability: float
    top: tuple
    probabilities: np.ndarray
    unlike: bool | None


# The two halves of a model; from its card, where it has one, the file's hash and the threshold of `unlike`.
Classifier = namedtuple("Classifier", "name entry network sha256 threshold", defaults=(None, None))


def predict(model, pictures, top=3, batch_size=64, on_error=None):
    """Classify pictures of any size.

    Args:
        model: a name as in `load_model`, or a `keras.Model` with layers `entry` and `network`.
        pictures: path of a file or folder (see `list_pictures`), RGB pixels `(h, w, 3)` or `(n, h, w, 3)`,
            uint8 or float in [0, 255], PIL image, or an iterable of any of these.
        top: int in 1..10, length of `Answer.top`.
        batch_size: int, pictures the network sees at once.
        on_error: function given the `PictureError` of each unreadable picture, which is then left out, as in
            `bad = []; predict(..., on_error=bad.append)`. Without it the first one is raised, for folders and
            lists too, so that no picture goes missing unnoticed.

    Returns:
        list of `Answer` in the order of the pictures.

    Raises:
        PictureError: a picture cannot be read, and there is no `on_error`.
        ArtefactError: the named model is missing or damaged.
    """
    if not 1 <= top <= 10 or batch_size < 1:
        raise ValueError(f"top is {top}, batch_size is {batch_size}; expected 1 to 10 and at least 1")
    classifier = open_classifier(model)
    batches = read_batches(list_pictures(pictures), 4 * batch_size, on_error)
    return [answer for batch in batches for answer in classify(classifier, batch, top, batch_size)]


def read_picture(path):
    """Read a picture file as a viewer shows it: upright, 8 bits a channel, transparency laid over white.

    EXIF orientation is applied, colour profiles are not. Floating-point and 32-bit grey has no agreed white;
    the least of 1 (floats only), 255, 65535 and 2^32 that its brightest pixel does not exceed is taken.

    Args:
        path: str or path of a regular file, at most 512 MiB and 2²⁶ pixels, in one of `FORMATS`; of several
            frames or pages the first is read.

    Returns:
        uint8 `(h, w, 3)`. Anything else raises `PictureError`, whatever the bytes; it never blocks on a pipe.
    """
    name = os.fsdecode(path)
    try:
        data = _read_bytes(name)
        _check_tiff(data)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise PictureError(name, getattr(error, "strerror", None) or error) from None
    except MemoryError:
        raise PictureError(name, _NO_MEMORY) from None
    return _decode(name, lambda: Image.open(io.BytesIO(data), formats=FORMATS))


def list_pictures(pictures, _count=None):
    """Yield (name, read) for each picture; `read()` gives its pixels or raises `PictureError`.

    Of a folder come the entries directly inside, sorted, that end in one of `SUFFIXES` and are not hidden; a
    file named on its own is tried whatever its name. `pictures` is as in `predict`.
    """
    count = itertools.count() if _count is None else _count
    if isinstance(pictures, str | bytes | os.PathLike):
        yield from ((file, partial(read_picture, file)) for file in _files(os.fsdecode(pictures)))
    elif isinstance(pictures, Image.Image):
        name = getattr(pictures, "filename", "") or f"picture {next(count)}"
        yield name, partial(_decode, name, partial(_copy, pictures))
    elif hasattr(pictures, "__array__"):
        array = np.asarray(pictures)
        for pixels in array if array.ndim == 4 else [array]:
            name = f"picture {next(count)}"
            yield name, partial(_check_array, name, pixels)
    elif hasattr(pictures, "__iter__"):
        for item in pictures:
            yield from list_pictures(item, count)
    else:
        name = f"picture {next(count)}"
        yield name, partial(_refuse, name, f"is {type(pictures)}, expected a path, an array or a PIL image")


def read_batches(listed, batch_size=256, on_error=None):
    """Read what `list_pictures` yields; memory does not grow with the number of pictures.

    Yields lists of at most `batch_size` pairs (name, pixels), uint8 or float32 `(h, w, 3)`; large pictures
    make shorter lists. `on_error` is as in `predict`.
    """
    batch, values = [], 0
    for name, read in listed:
        try:
            pixels = read()
        except PictureError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        batch.append((name, pixels))
        values += pixels.size
        if len(batch) == batch_size or values >= BATCH_VALUES:
            yield batch
            batch, values = [], 0
    if batch:
        yield batch


def open_classifier(model):
    """Take a `keras.Model` apart, or the shipped model of that name; errors are as in `predict`."""
    if not isinstance(model, str):
        return Classifier(getattr(model, "name", ""), *_halves(model))
    from .artefacts import load_card

    card = load_card(model)
    halves = _halves(_load(model, card.get("sha256")))
    return Classifier(model, *halves, card.get("sha256"), card.get("unlike", {}).get("threshold"))


def classify(classifier, batch, top=3, batch_size=64):
    """Answer for one list of `read_batches`: the entry once per picture size, the network on `batch_size` at a time."""
    from .data import CLASSES

    places_of = {}
    for place, (_, pixels) in enumerate(batch):
        places_of.setdefault((pixels.shape, pixels.dtype), []).append(place)
    seen = {}
    groups = (np.stack([batch[place][1] for place in places]) for places in places_of.values())
    with no_retracing_warning(), ThreadPoolExecutor(2) as pool:
        # Traced twice, predict_on_batch takes any size; a plain call runs forty small steps from Python.
        entered = pool.map(classifier.entry.predict_on_batch, groups)
        for places, pixels in zip(places_of.values(), entered, strict=True):
            seen.update(zip(places, pixels, strict=True))
        inputs = np.stack([seen[place] for place in range(len(batch))])
        starts = range(0, len(inputs), batch_size)
        probabilities = np.concatenate(
            [classifier.network.predict_on_batch(inputs[i : i + batch_size]) for i in starts]
        )
    answers = []
    for (name, _), row in zip(batch, probabilities, strict=True):
        ranked = tuple((CLASSES[index], float(row[index])) for index in np.argsort(-row, kind="stable")[:top])
        unlike = None if classifier.threshold is None else ranked[0][1] < classifier.threshold
        answers.append(Answer(name, *ranked[0], ranked, row, unlike))
    return answers


def evidence_map(model, picture, label=None):
    """What each place of a network's last feature map adds to the logit of a class.

    All that follows is linear, so that this needs no gradient. Behind average pooling it is class activation
    mapping (Zhou et al. 2016, arXiv:1512.04150), which is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) with
    the evidence against the class kept. Behind maximum pooling a channel adds where it is largest; ties share.

    Args:
        model, picture: as in `predict`, but a single picture.
        label: str, one of `CLASSES`; None for the answer.

    Returns:
        float32 `(h, w)`, nats, over the centre square that the entry cuts out; the sum is the logit less its bias.
    """
    import keras

    from .data import CLASSES

    if label is not None and label not in CLASSES:
        raise ValueError(f"label is {label!r}, expected None or one of {', '.join(CLASSES)}")
    listed = list(itertools.islice(list_pictures(picture), 2))
    if len(listed) != 1:
        raise ValueError(f"picture holds {'several pictures' if listed else 'nothing'}, expected a single one")
    ((_, read),) = listed
    classifier = open_classifier(model)
    pool, logits = (classifier.network.get_layer(name) for name in ("pool", "logits"))
    body, head = keras.Model(classifier.network.inputs, pool.input), keras.Model(pool.output, logits.output)
    (features,) = keras.ops.convert_to_numpy(body(classifier.entry(read()[None])))
    counts = np.ones_like(features)
    if isinstance(pool, keras.layers.GlobalMaxPooling2D):
        counts = (features == features.max(axis=(0, 1))).astype(np.float32)
    shares = (features * counts / counts.sum(axis=(0, 1))).reshape(-1, features.shape[-1])
    bias, *added = keras.ops.convert_to_numpy(head(np.pad(shares, ((1, 0), (0, 0))))).astype(np.float32)
    added = np.array(added) - bias  # a row of zeros in front gave the bias
    column = (added.sum(axis=0) + bias).argmax() if label is None else CLASSES.index(label)
    return added[:, column].reshape(features.shape[:2])


def printable(text):
    """Text as one line: line breaks, terminal codes and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@lru_cache(maxsize=4)
def _load(name, sha256):  # the hash is there so that a model replaced on disk is loaded anew
    from .artefacts import load_model

    return load_model(name)


def _halves(model):
    try:
        return model.get_layer("entry"), model.get_layer("network")
    except (AttributeError, ValueError):
        expected = "the name of a shipped model, or a keras.Model with layers 'entry' and 'network'"
        raise ValueError(f"cannot predict with {model!r}, expected {expected}") from None


@contextlib.contextmanager
def no_retracing_warning():
    """Keep TensorFlow from warning of pictures of many sizes, each of which it traces a function for, twice at most."""
    logger, wanted = logging.getLogger("tensorflow"), lambda record: "retracing" not in record.getMessage()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _files(path):
    names = []
    with contextlib.suppress(OSError, ValueError):  # whatever is wrong with the path, read_picture says
        names = sorted(n for n in os.listdir(path) if n.lower().endswith(SUFFIXES) and n[0] != ".")
    return [os.path.join(path, name) for name in names] or [path]


def _refuse(name, reason):
    raise PictureError(name, reason)


def _read_bytes(path):
    status = os.stat(path)  # before opening, which can block on a pipe and set off a device
    if stat.S_ISDIR(status.st_mode):
        inside = any(name.lower().endswith(SUFFIXES) for name in os.listdir(path))
        raise ValueError(f"is a folder {'inside a folder, which is not searched' if inside else 'without pictures'}")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is a pipe, socket or device")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"has {status.st_size:,} bytes, the limit is {MAX_BYTES:,}")
    flags = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
        if not (data := file.read(status.st_size)):
            raise ValueError("is empty")
    return data


def _check_tiff(data):
    """Refuse a TIFF whose first directory holds a table that Pillow would spend memory and minutes on."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    with contextlib.suppress(struct.error):  # a directory that is cut off is left to Pillow
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        at += 8 if big else 2
        for entry in range(min(entries, _MAX_STRIPS)):
            tag, kind, count = struct.unpack_from(
                order + ("HHQ" if big else "HHI"), data, at + (20 if big else 12) * entry
            )
            # Text, bytes and opaque data, such as colour profiles, are kept in one piece.
            if count > _MAX_STRIPS and (kind not in (1, 2, 7) or tag in (_STRIPS, _TILES)):
                raise ValueError(f"has a table of {count:,} entries (TIFF tag {tag}), the limit is {_MAX_STRIPS:,}")


def _copy(image):
    copy = image.copy()
    if hasattr(image, "tag_v2"):
        copy.tag_v2 = image.tag_v2  # says how deep the grey of a TIFF is
    return copy


def _decode(name, open_image):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image()
            if image.width * image.height > MAX_PIXELS:  # Pillow has a laxer limit of its own
                raise Image.DecompressionBombError
            image.load()
            return _to_rgb(image)
    except Image.DecompressionBombError:
        raise PictureError(name, f"has more than {MAX_PIXELS:,} pixels, which is the limit") from None
    except MemoryError:
        raise PictureError(name, _NO_MEMORY) from None
    except _Unsuitable as error:
        raise PictureError(name, error) from None
    except UnidentifiedImageError:
        raise PictureError(name, f"is not a picture in a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = str(error)[:120] or type(error).__name__
        raise PictureError(name, f"is damaged or cut off ({reason})") from None


class _Unsuitable(Exception):
    """A whole picture of something that cannot be shown."""


def _to_rgb(image):
    with contextlib.suppress(Exception):  # a damaged EXIF block does not make a picture unreadable
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        grey = _to_8_bits(image)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[np.array(image) == clear] = 255
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _to_8_bits(image):
    values, tags = np.array(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_BITS, (0,))[0] == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] != 2:
        values = values.view(np.uint32)  # which Pillow delivers as signed
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    whites = {"I": (255, 65535, 2**32), "F": (1, 255, 65535, 2**32)}
    whites = whites.get(image.mode, (2 ** tags.get(_BITS, (16,))[0] - 1,))
    if not (low >= 0 and high <= whites[-1]):
        raise _Unsuitable(f"has grey values from {low:g} to {high:g}, expected 0 to 1, 255, 65535 or 2^32")
    white = next(white for white in whites if high <= white)
    values = values * (255 / white)
    return np.rint(255 - values if tags.get(_PHOTOMETRIC) == 0 else values).astype(np.uint8)


def _check_array(name, pixels):
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.size == 0 or pixels.dtype.kind not in "iuf":
        _refuse(name, f"is {pixels.dtype} {pixels.shape}, expected RGB pixels (height, width, 3)")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):
        _refuse(name, f"has values from {low:g} to {high:g}, expected 0 to 255")
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        _refuse(name, "has values from 0 to 1, expected 0 to 255: multiply by 255")
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
