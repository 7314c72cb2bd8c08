"""Change training images at random, so that a network sees something new in every epoch."""

import numpy as np
from scipy.ndimage import gaussian_filter

_GREY = 118  # about the mean of all pixels, which the normalisation maps to about zero


def augment(images, labels, random, shift=0, blur=0.0, cutout=0):
    """Shift, blur and cut out, each image by draws of its own.

    Args:
        images: uint8 or float (n, height, width, 3) in [0, 255]; not changed.
        labels: float32 (n, classes), one-hot; returned as they are.
        random: `numpy.random.Generator`.
        shift: int, px: largest translation in either direction; edges are reflected.
        blur: float, px: largest standard deviation of a Gaussian blur.
        cutout: int, px: side of a square that is greyed out (DeVries & Taylor 2017, arXiv:1708.04552).

    Returns:
        images and labels of the same shapes and dtypes.

    Raises:
        ValueError: a setting is negative, or larger than the images.
    """
    side = min(images.shape[1:3])
    if not (0 <= shift < side and blur >= 0 and 0 <= cutout <= side):
        given = f"shift={shift}, blur={blur}, cutout={cutout}"
        raise ValueError(f"{given} for images of {side} px, expected at least 0, shift below {side}, cutout up to it")
    images = _shift(images, shift, random)
    if blur:
        images = _blur(images, blur, random)
    if cutout:
        images = _cut_out(images, cutout, random)
    return images, labels


def _shift(images, most, random):
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    top, left = random.integers(2 * most + 1, size=(2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _blur(images, most, random):
    # On uint8 the fractions are cut off, which darkens an image by about one grey level.
    widths = random.uniform(0, most, len(images))
    return np.stack([gaussian_filter(image, (width, width, 0)) for image, width in zip(images, widths, strict=True)])


def _cut_out(images, size, random):
    count, height, width, _ = images.shape
    corners = random.integers((height - size + 1, width - size + 1), size=(count, 2))
    rows, columns = (corners[:, i, None] + np.arange(size) for i in (0, 1))
    images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = _GREY
    return images
