"""The corruptions of CIFAR-10-C that need more than a line, and a table of their constants for severities 1 to 5.

The constants are those of make_cifar_c.py (Hendrycks & Dietterich 2019, arXiv:1903.12261; github.com/hendrycks/
robustness), the code is not. Differences: the ice of `frost` is made of noise, where theirs is cut out of photographs;
fog is a sum of octaves of noise, where theirs comes from a diamond-square fractal of the same decay.

Each function takes an image, float (height, width, 3) in [0, 1], its constants and a `numpy.random.Generator`, and
gives such an image, whose values may leave [0, 1].
"""

import numpy as np
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter, map_coordinates, zoom

from ..data import digests


def shot_noise(image, photons, random):
    """Poisson noise of so many photons at full brightness."""
    return random.poisson(image * photons) / photons


def impulse_noise(image, share, random):
    """A share of all values becomes 0 or 1."""
    hit = random.random(image.shape) < share
    return np.where(hit, random.integers(2, size=image.shape), image)


def defocus_blur(image, setting, random):
    """A disk of so many px radius, whose edge is smoothed with a deviation in px."""
    radius, smooth = setting
    y, x = np.mgrid[-3:4, -3:4]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    kernel = gaussian_filter(disk / disk.sum(), smooth, radius=1)
    return convolve(image, kernel[..., None], mode="mirror")


def glass_blur(image, setting, random):
    """Blurred by a deviation in px; each pixel replaced by a near one, so many times; blurred again."""
    deviation, reach, times = setting
    image = gaussian_filter(image, (deviation, deviation, 0), mode="nearest")
    height, width = image.shape[:2]
    for _ in range(times):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                dx, dy = random.integers(-reach, reach, size=2)
                image[y, x] = image[y + dy, x + dx]  # their script means to swap, and copies
    return gaussian_filter(image, (deviation, deviation, 0), mode="nearest")


def motion_blur(image, setting, random, angles=(-45, 45)):
    """Smeared to one side over at most 2 · radius px, by half a Gaussian of a deviation in px, at a random angle."""
    radius, deviation = setting
    angle = np.deg2rad(random.uniform(*angles))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    y, x = (np.arange(side) for side in image.shape[:2])
    smeared = np.zeros(image.shape)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        rows = (y + round(step * np.sin(angle))).clip(0, len(y) - 1)
        columns = (x + round(step * np.cos(angle))).clip(0, len(x) - 1)
        smeared += weight * image[rows[:, None], columns]
    return smeared


def zoom_blur(image, most, random):
    """The mean of the image, and of it enlarged by 1, 1.01, …, 1 + most / 100."""
    views = [_zoomed(image, 1 + percent / 100) for percent in range(most + 1)]
    return np.mean([image, *views], axis=0)


def snow(image, setting, random):
    """Flakes that fall in streaks over a paler image."""
    mean, deviation, enlarged, threshold, radius, smear, kept = setting
    flakes = _zoomed(random.normal(mean, deviation, (*image.shape[:2], 1)), enlarged)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    flakes = motion_blur(flakes, (radius, smear), random, angles=(-135, -45))
    grey = image @ (0.299, 0.587, 0.114)
    pale = np.maximum(image, 1.5 * grey[..., None] + 0.5)
    return kept * image + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def frost(image, setting, random):
    """Bluish ice of noise, ridged as crystals are, added to a darker image."""
    kept, share = setting
    ridges = 1 - np.abs(2 * _noise(image.shape[:2], 1.3, random) - 1)
    return kept * image + share * ridges[..., None] * (0.8, 0.9, 1.0)


def fog(image, setting, random):
    """Clouds of noise, added, and all darkened to the former brightest value."""
    share, decay = setting
    brightest = image.max()
    return (image + share * _noise(image.shape[:2], decay, random)[..., None]) * brightest / (brightest + share)


def brightness(image, more, random):
    """Brighter by so much of 1 in the value of HSV."""
    value = image.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, image * brighter / np.maximum(value, 1e-9), brighter)


def elastic_transform(image, setting, random):
    """A random affine map, then random displacements; all three are shares of the side."""
    side = min(image.shape[:2])
    height, deviation, corner = (side * share for share in setting)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    centre, arm = np.array(image.shape[1::-1]) // 2, max(side // 3, 1)
    before = centre + arm * np.array([(1, 1), (1, -1), (-1, -1)])
    after = before + random.uniform(-corner, corner, (3, 2))
    back = np.linalg.lstsq(np.c_[after, np.ones(3)], before, rcond=None)[0]
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ back
    image = _sampled(image, source[..., 1], source[..., 0], "mirror")
    if not height:
        return image
    dx, dy = (gaussian_filter(random.uniform(-1, 1, x.shape), deviation, truncate=3) * height for _ in "xy")
    return _sampled(image, y + dy, x + dx, "reflect")


TABLE = {
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, (5, 10, 15, 20, 25)),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
}


def apply(images, name, severity, seed):
    """Corrupt images, uint8 (n, height, width, 3), by one of TABLE; each by draws of its own content and the seed."""
    change, constants = TABLE[name]
    made = [
        change(image / 255, constants[severity - 1], np.random.default_rng((seed, int(digest))))
        for image, digest in zip(images, digests(images), strict=True)
    ]
    return np.rint(255 * np.stack(made)).clip(0, 255).astype(np.uint8)


def _zoomed(image, factor):
    """The middle of an image enlarged to its size."""
    sides = image.shape[:2]
    top, left = ((side - int(np.ceil(side / factor))) // 2 for side in sides)
    large = zoom(image[top : sides[0] - top, left : sides[1] - left], (factor, factor, 1), order=1)
    top, left = ((now - side) // 2 for now, side in zip(large.shape, sides, strict=False))
    return large[top : top + sides[0], left : left + sides[1]]


def _noise(shape, decay, random):
    """Noise in [0, 1] of octaves that each have 1 / decay² of the amplitude of the one before."""
    total = np.zeros(shape)
    for octave in range(1, 6):
        grid = random.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BILINEAR)) / decay ** (
            2 * octave
        )
    return (total - total.min()) / max(np.ptp(total), 1e-9)


def _sampled(image, rows, columns, mode):
    channels = [map_coordinates(image[..., k], (rows, columns), order=1, mode=mode) for k in range(3)]
    return np.stack(channels, axis=-1)
