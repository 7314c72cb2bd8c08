"""Degrade images as files do: content carried at few pixels, enlargement on delivery, the corruptions of CIFAR-10-C.

RGB images, uint8 `(n, height, width, 3)`, come in and go out; anything else raises ValueError. What becomes of an image
depends on itself, the settings and the seed, and not on the others.
"""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from .data import digests

METHODS = ("nearest", "bilinear", "bicubic", "lanczos")
# Those of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv:1903.12261; github.com/hendrycks/robustness, make_cifar_c.py),
# which are milder than those of ImageNet-C.
SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, as a share of 255
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation, px
    "jpeg": (80, 65, 58, 50, 40),  # quality on Pillow's scale
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor on the distance from each channel's mean
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # side of the grid of blocks, as a share of the image's
}


def content(images, size):
    """What is left of 32×32 images that were carried at `size` px: shrunk with antialiasing, and enlarged again."""
    return deliver(deliver(images, size, "bicubic"), 32, "bicubic")


def deliver(images, size, method):
    """Resize to squares of `size` px by one of METHODS, as Pillow does; shrinking antialiases, except by "nearest"."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    return _each(images, lambda image: image.resize((size, size), Image.Resampling[method.upper()]))


def corrupt(images, name, severity, seed=0):
    """Apply one of SEVERITIES, at a severity from 1 to 5; `seed` is that of the noise."""
    if name not in SEVERITIES or severity not in range(1, 6):
        given = f"corruption {name!r} at severity {severity!r}"
        raise ValueError(f"{given}, expected one of {', '.join(SEVERITIES)} at 1, 2, 3, 4 or 5")
    setting = SEVERITIES[name][severity - 1]
    if name == "jpeg":
        return _each(images, lambda image: _through_jpeg(image, setting))
    if name == "pixelate":
        return _each(images, lambda image: _through_blocks(image, setting))
    values = _checked(images).astype("float32")
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
    blocks = image.resize([int(share * side) for side in image.size], Image.Resampling.BOX)
    return blocks.resize(image.size, Image.Resampling.BOX)


def _each(images, change):
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in _checked(images)])


def _checked(images):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or images.size == 0:
        raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 (n, height, width, 3), none empty")
    return images
