"""Find and read people's own pictures: files, folders, arrays, and what lies in memory."""

import contextlib
import io
import itertools
import os
import stat
import struct
import warnings
from collections.abc import Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from .checks import fault_of_pixels
from .system import printable

_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()  # since Pillow 11.3, in most builds
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *_AVIF)
_RAW = ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srw .x3f"
_UNREAD = (
    ".avifs .cur .dds .eps .exr .hdr .heic .heics .heif .heifs .icns .ico .j2c .j2k .jp2 .jpc .jpf .jpm .jpx .jxl .jxr "
    ".pam .pbm .pcx .pfm .pgm .pict .pnm .ppm .psb .psd .qoi .sgi .svg .svgz .tga .wmf .xbm .xcf .xpm"
)
_READ = ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif"
# What a folder is searched for: also files that are not read here, so that they are told and not passed over.
SUFFIXES = tuple(f"{_READ} {_UNREAD} {_RAW}".split())
MAX_PIXELS = 2**26  # 67 million, so that a 50-megapixel photograph passes
MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, uncompressed
BATCH_VALUES = 3 * 2**22  # pixel values in memory at once: 64 pictures of 256×256, or a single photograph
_BITS, _PHOTOMETRIC, _STRIPS, _TILES, _SAMPLE_FORMAT = 258, 262, 273, 324, 339  # TIFF tags
_MAX_STRIPS = 2**16  # of a TIFF: Pillow keeps an object of each, whatever the picture's size
_NAME_LENGTH = 120  # characters of a name in a message
_NO_MEMORY = "needs more memory than there is"
_EXPECTED = "a path, the bytes of a picture file, an array (height, width, 3) or a PIL image"


class PictureError(ValueError):
    """A picture cannot be read; the text is one line, `NAME: reason`, in which a long name is cut."""

    def __init__(self, name, reason):
        super().__init__(f"{printable(name, _NAME_LENGTH)}: {printable(reason)}")


def read_picture(picture):
    """Read a picture file as a viewer shows it: upright, 8 bits a channel, transparency laid over white.

    EXIF orientation is applied, colour profiles are not. Floating-point and 32-bit grey has no agreed white;
    the least of 1 (floats only), 255, 65535 and 2^32 that its brightest pixel does not exceed is taken.

    Args:
        picture: str or path of a regular file, the bytes of one, or a binary file object, which is read from its
            start; at most 512 MiB and 2²⁶ pixels, in one of `FORMATS`. Of several frames or pages the first is read.

    Returns:
        uint8 `(h, w, 3)`. Anything else raises `PictureError`, whatever the bytes; it never blocks on a pipe.
    """
    ((_, read),) = itertools.islice(list_pictures(picture, folders=False), 1)
    return read()


def list_pictures(pictures, folders=True, _count=None):
    """Yield (name, read) for each picture; `read()` gives its pixels or raises `PictureError`.

    Of a folder come the entries directly inside, sorted, that end in one of `SUFFIXES` and are not hidden; a
    file named on its own is tried whatever its name. A `~` in front stands for the home folder, unless there is
    a file of that name.

    Args:
        pictures: as in `predict`.
        folders: bool, whether to look inside folders.
    """
    count = itertools.count() if _count is None else _count
    if isinstance(pictures, str | os.PathLike):
        path = _home(os.fsdecode(pictures))
        yield from ((file, partial(_read_path, file)) for file in (_files(path) if folders else [path]))
    elif isinstance(pictures, bytes | bytearray | memoryview):
        name = f"picture {next(count)}"
        yield name, partial(_read_data, name, partial(bytes, pictures))
    elif isinstance(pictures, Image.Image):
        name = getattr(pictures, "filename", "") or f"picture {next(count)}"
        yield name, partial(_decode, name, partial(_copy, pictures))
    elif hasattr(pictures, "read"):
        name = getattr(pictures, "name", None)
        name = name if isinstance(name, str) else f"picture {next(count)}"
        yield name, partial(_read_data, name, partial(_read_stream, pictures))
    elif hasattr(pictures, "__array__"):
        yield from _of_array(pictures, folders, count)
    elif hasattr(pictures, "__iter__") and not isinstance(pictures, Mapping):
        for item in pictures:
            yield from list_pictures(item, folders, count)
    else:
        name = f"picture {next(count)}"
        hint = ": give its values, list(pictures.values())" if isinstance(pictures, Mapping) else ""
        hint = ": give its images" if hasattr(pictures, "images") else hint
        yield name, partial(_refuse, name, f"is a {type(pictures).__name__}, expected {_EXPECTED}{hint}")


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


def _of_array(given, folders, count):
    try:
        array = np.asarray(given)
    except Exception as error:  # what other libraries raise for arrays on a GPU, or with a gradient
        name = f"picture {next(count)}"
        reason = f"is a {type(given).__name__} that is no NumPy array ({str(error)[:120]}), expected {_EXPECTED}"
        yield name, partial(_refuse, name, reason)
        return
    if array.dtype.kind in "SUT" or (array.dtype.kind == "O" and array.ndim < 2):  # lists of paths, as of pandas
        for item in array.ravel().tolist():
            yield from list_pictures(os.fsdecode(item) if array.dtype.kind == "S" else item, folders, count)
        return
    stack = array if array.ndim == 4 else [array]
    cut = _is_scaled(array) if array.ndim == 4 and array.dtype.kind in "iuf" else None
    for pixels in stack:
        name = f"picture {next(count)}"
        yield name, partial(_check_array, name, pixels, cut)


def _is_scaled(stack):
    """Whether pictures were divided by 255, judged on all of them: one dark picture may be all 0 and 1."""
    high = stack[np.isfinite(stack)].max(initial=0)
    return (0 < high <= 1) if stack.dtype.kind == "f" else (len(stack) > 1 and high == 1)


def _home(path):
    return os.path.expanduser(path) if path.startswith("~") and not os.path.lexists(path) else path


def _files(path):
    names = []
    with contextlib.suppress(OSError, ValueError):  # whatever is wrong with the path, reading it says
        names = sorted(n for n in os.listdir(path) if n.lower().endswith(SUFFIXES) and n[0] != ".")
    return [os.path.join(path, name) for name in names] or [path]


def _read_path(path):
    suffix = os.path.splitext(path)[1].lower()
    unread = f"is {suffix[1:].upper()}, which is not read here: save it as PNG or JPEG"
    if suffix in _RAW.split() and os.path.isfile(path):  # Pillow takes some for a TIFF, and shows their thumbnail
        _refuse(path, unread)
    told = suffix in _UNREAD.split() or (suffix == ".avif" and not _AVIF)
    return _read_data(path, partial(_read_bytes, path), unread if told else None)


def _read_data(name, get, unknown=None):
    try:
        data = get()
        if not data:
            raise ValueError("is empty")
        if len(data) > MAX_BYTES:
            raise ValueError(f"has more than {MAX_BYTES:,} bytes, which is the limit")
        _check_tiff(data)
    except (OSError, ValueError) as error:  # ValueError: also a null byte in the name, and a closed file
        raise PictureError(name, getattr(error, "strerror", None) or error) from None
    except MemoryError:
        raise PictureError(name, _NO_MEMORY) from None
    return _decode(name, lambda: Image.open(io.BytesIO(data), formats=FORMATS), unknown)


def _read_stream(file):
    try:
        with contextlib.suppress(OSError, AttributeError):  # it cannot go back, as standard input
            file.seek(0)
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # what archives and connections raise when they are cut off
        raise ValueError(f"cannot be read ({str(error)[:120] or type(error).__name__})") from None
    if not isinstance(data, bytes):
        raise ValueError(f"gives {type(data).__name__}, expected bytes: open the file in mode 'rb'")
    return data


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
        return file.read(status.st_size)


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


def _decode(name, open_image, unknown=None):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image()
            if image.width * image.height > MAX_PIXELS:  # Pillow has a laxer limit of its own
                raise Image.DecompressionBombError
            image.load()
            if not (image.width and image.height):
                raise _Unsuitable("has no pixels")
            return _to_rgb(image)
    except Image.DecompressionBombError:
        raise PictureError(name, f"has more than {MAX_PIXELS:,} pixels, which is the limit") from None
    except MemoryError:
        raise PictureError(name, _NO_MEMORY) from None
    except _Unsuitable as error:
        raise PictureError(name, error) from None
    except UnidentifiedImageError:
        known = f"is not a picture in a known format ({', '.join(FORMATS)})"
        raise PictureError(name, unknown or known) from None
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


def _check_array(name, pixels, cut):
    fault = fault_of_pixels(pixels, cut)
    if fault and (pixels.ndim == 2 or pixels.shape[2:] == (1,)):
        fault += ": a grey picture needs its channel three times, np.stack([grey] * 3, axis=-1)"
    elif fault and pixels.shape[2:] == (4,):
        fault += ": leave out the fourth channel, pixels[..., :3]"
    elif cut and pixels.dtype.kind != "f":
        fault = "is one of several with values from 0 to 1, expected 0 to 255: keep the pixels as they were stored"
    if fault:
        _refuse(name, fault)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
