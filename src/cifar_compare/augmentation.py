"""Change training images at random, so that a network sees something new in every epoch."""

import io
import numbers

import keras
import numpy as np
from keras import ops
from PIL import Image
from scipy.ndimage import gaussian_filter

from .system import shown

_GREY = 118  # about the mean of all pixels, which the normalisation maps to about zero


def augment(images, labels, random, shift=0, blur=0.0, corrupt=0.0, cutout=0, cutmix=0.0):
    """Shift, blur, corrupt, cut out and mix, in this order, by draws of its own for each image.

    Args:
        images: uint8 or float (n, height, width, 3) in [0, 255]; not changed.
        labels: float32 (n, classes), one-hot.
        random: `numpy.random.Generator`.
        shift: int, px: largest translation in either direction; edges are reflected.
        blur: float, px: largest standard deviation of a Gaussian blur.
        corrupt: float: share of the images that get one fault of cameras and files, drawn from six: noise, blur, JPEG,
            low contrast, blocks, and a small subject off the centre.
        cutout: int, px: side of a square that is greyed out (DeVries & Taylor 2017, arXiv:1708.04552).
        cutmix: float: share of the batches in which each image gets a box of another, and its label as much of the
            other's (Yun et al. 2019, arXiv:1905.04899).

    Returns:
        images and labels of the same shapes and dtypes.

    Raises:
        ValueError: a setting is negative, larger than the images, or no share.
    """
    side = min(images.shape[1:3])
    for name, value in (("blur", blur), ("corrupt", corrupt), ("cutmix", cutmix)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"{name} is {shown(value)}, expected a number of at least 0")
    whole = all(isinstance(value, numbers.Integral) and not isinstance(value, bool) for value in (shift, cutout))
    if not (whole and 0 <= shift < side and 0 <= blur < np.inf and 0 <= cutout <= side):
        given = f"shift={shown(shift)}, blur={blur}, cutout={shown(cutout)}"
        raise ValueError(
            f"{given} for images of {side} px, expected at least 0, whole shift below {side}, cutout up to it"
        )
    if not (0 <= corrupt <= 1 and 0 <= cutmix <= 1):
        raise ValueError(f"corrupt={corrupt}, cutmix={cutmix}, expected shares from 0 to 1")
    images = _shift(images, shift, random)
    if blur:
        images = _blur(images, blur, random)
    if corrupt:
        images = _corrupt(images, corrupt, random)
    if cutout:
        images = _cut_out(images, cutout, random)
    if cutmix and random.random() < cutmix:
        images, labels = _cut_mix(images, labels, random)
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
    widths, dtype = random.uniform(0, most, len(images)), images.dtype
    images = images.astype("float32") if dtype == np.float16 else images  # which SciPy does not filter
    blurred = [gaussian_filter(image, (width, width, 0)) for image, width in zip(images, widths, strict=True)]
    return np.stack(blurred).astype(dtype)


def _corrupt(images, share, random):
    for index in np.flatnonzero(random.random(len(images)) < share):
        fault = _FAULTS[random.integers(len(_FAULTS))]
        faulty = np.rint(fault(images[index].astype("float32"), random))
        images[index] = faulty.clip(0, 255)
    return images


def _cut_out(images, size, random):
    count, height, width, _ = images.shape
    corners = random.integers((height - size + 1, width - size + 1), size=(count, 2))
    rows, columns = (corners[:, i, None] + np.arange(size) for i in (0, 1))
    images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = _GREY
    return images


def _cut_mix(images, labels, random):
    layer = keras.layers.CutMix(data_format="channels_last", dtype="float32")
    drawn = layer.get_random_transformation(
        {"images": images, "labels": labels}, seed=keras.random.SeedGenerator(int(random.integers(2**31)))
    )
    # Keras weighs the labels by the box before it is cut to whole pixels.
    drawn["mix_weight"] = 1.0 - ops.mean(ops.cast(drawn["batch_masks"], "float32"), axis=(1, 2, 3))
    mixed = layer.transform_images(images, drawn), layer.transform_labels(labels.astype("float32"), drawn)
    return tuple(ops.convert_to_numpy(new).astype(old.dtype) for new, old in zip(mixed, (images, labels), strict=True))


def _noise(image, random):
    return image + random.normal(0, random.uniform(0, 20), image.shape)


def _out_of_focus(image, random):
    width = random.uniform(0.2, 1.2)
    return gaussian_filter(image, (width, width, 0), mode="nearest")


def _compressed(image, random):
    file = io.BytesIO()
    Image.fromarray(image.astype("uint8")).save(file, "JPEG", quality=int(random.integers(30, 91)))
    return np.asarray(Image.open(file), "float32")


def _pale(image, random):
    mean = image.mean(axis=(0, 1))
    return mean + random.uniform(0.15, 1) * (image - mean)


def _in_blocks(image, random):
    size = image.shape[1::-1]
    blocks = [round(random.uniform(0.4, 1) * side) for side in size]
    shrunk = Image.fromarray(image.astype("uint8")).resize(blocks, Image.Resampling.BOX)
    return np.asarray(shrunk.resize(size, Image.Resampling.BOX), "float32")


def _small(image, random):
    height, width, _ = image.shape
    rows, columns = (round(random.uniform(0.6, 1) * side) for side in (height, width))
    shrunk = np.asarray(Image.fromarray(image.astype("uint8")).resize((columns, rows), Image.Resampling.BICUBIC))
    top, left = random.integers((height - rows + 1, width - columns + 1))
    around = ((top, height - rows - top), (left, width - columns - left), (0, 0))
    return np.pad(shrunk, around, mode="reflect").astype("float32")


_FAULTS = (_noise, _out_of_focus, _compressed, _pale, _in_blocks, _small)
