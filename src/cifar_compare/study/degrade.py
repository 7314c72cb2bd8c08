"""Degrade images: content carried at few pixels, enlargement on delivery, the corruptions of CIFAR-10-C.

Takes and returns RGB images, uint8 `(n, height, width, 3)` with n ≥ 1; anything else raises ValueError. What becomes of
an image depends on itself, the settings and the seed, and not on the others.
"""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from .. import checks
from ..data import digests
from . import corruptions

MAX_PIXELS = 200_000_000  # of all pictures that one call makes: 600 MB
METHODS = ("nearest", "bilinear", "bicubic", "lanczos")
# Those of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv:1903.12261; github.com/hendrycks/robustness, make_cifar_c.py),
# which are milder than those of ImageNet-C. "jpeg" is their jpeg_compression; gaussian_blur is one of their extra four.
SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, as a share of 255
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation, px
    "jpeg": (80, 65, 58, 50, 40),  # quality on Pillow's scale
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor on the distance from each channel's mean
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # side of the grid of blocks, as a share of the image's
} | {name: constants for name, (_, constants) in corruptions.TABLE.items()}


def content(images, size):
    """Shrink 32×32 images to `size` px, antialiased, and enlarge them again: what is left of their content."""
    images = checked(images, side=32)
    check_size(size, "size", len(images))
    return resized(resized(images, size, "bicubic"), 32, "bicubic")


def deliver(images, size, method):
    """Resize to squares of `size` px by one of METHODS, as Pillow does; antialiased to shrink, except by "nearest"."""
    check_method(method)
    images = checked(images)
    check_size(size, "size", len(images))
    return resized(images, size, method)


def corrupt(images, name, severity, seed=0):
    """Apply one of SEVERITIES, at a severity from 1 to 5, or 0 for a copy; `seed`, an int ≥ 0, is of the draws."""
    check_corruption(name, severity, least=0)
    images, seed = checked(images), checks.whole(seed, "seed", least=0)
    return corrupted(images, name, severity, seed) if severity else images.copy()


def checked(images, what="images", side=None):
    """The images as an array; ValueError unless they are uint8 (n, height, width, 3), of `side` px if one is given."""
    images = checks.images(images, what, side)
    if images.dtype != np.uint8:
        hint = "keep them as they were stored, or round them: np.rint(images).astype('uint8')"
        raise ValueError(f"{what} are {images.dtype}, expected uint8: {hint}")
    return images


def check_size(size, what, n=1):
    """Raise ValueError unless `size` is a whole number of px, and n squares of it have at most MAX_PIXELS."""
    if n * checks.whole(size, what) ** 2 > MAX_PIXELS:
        given = f"{what} is {size}, which makes {n * size**2 / 1e6:,.0f} megapixels in {n} pictures"
        raise ValueError(f"{given}, expected at most {MAX_PIXELS / 1e6:.0f}: make them smaller, or fewer at a time")


def check_method(method):
    """Raise ValueError unless `method` is one of METHODS."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")


def check_corruption(name, severity, least=1):
    """Raise ValueError unless `name` is one of SEVERITIES and `severity` an int from `least` to 5."""
    if not isinstance(name, str) or name not in SEVERITIES or checks.whole(severity, "severity", least) > 5:
        given = f"corruption {name!r} at severity {severity!r}"
        raise ValueError(f"{given}, expected one of {', '.join(SEVERITIES)} at 1, 2, 3, 4 or 5")


def resized(images, size, method):
    """As `deliver`, without its checks."""
    return _each(images, lambda image: image.resize((size, size), Image.Resampling[method.upper()]))


def corrupted(images, name, severity, seed=0):
    """As `corrupt`, without its checks."""
    if name in corruptions.TABLE:
        return corruptions.apply(images, name, severity, seed)
    setting = SEVERITIES[name][severity - 1]
    if name == "jpeg":
        return _each(images, lambda image: _through_jpeg(image, setting))
    if name == "pixelate":
        return _each(images, lambda image: _through_blocks(image, setting))
    values = images.astype("float32")
    if name == "gaussian_noise":
        # Drawn by the image's digest, so that an image gets the same noise in every batch and subset.
        draws = (np.random.default_rng((seed, int(digest))) for digest in digests(images))
        values += 255 * setting * np.stack([draw.standard_normal(images.shape[1:], "float32") for draw in draws])
    elif name == "gaussian_blur":
        values = gaussian_filter(values, (0, setting, setting, 0), mode="nearest")
    else:
        means = values.mean(axis=(1, 2), keepdims=True)
        values = (values - means) * setting + means
    return np.rint(values).clip(0, 255).astype(np.uint8)  # their script cuts the fraction off, which darkens


def _through_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def _through_blocks(image, share):
    blocks = image.resize([max(1, int(share * side)) for side in image.size], Image.Resampling.BOX)
    return blocks.resize(image.size, Image.Resampling.BOX)


def _each(images, change):
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])
