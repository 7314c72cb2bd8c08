"""Check what the public functions are given, before any work: one rule for images, labels and probabilities everywhere.

Every check raises ValueError and says what was given, what is expected and, where it can be guessed, what to do.
"""

import numbers

import numpy as np

from .system import printable, shown


def array_of(given, what, expected):
    """What was given as a NumPy array; ValueError where it is none, or some of its values are masked."""
    if np.ma.is_masked(given):
        raise ValueError(f"some values of {what} are masked, expected {expected}: leave them out or fill them")
    try:
        return np.asarray(given)
    except ValueError:  # NumPy's word for a list of several sizes
        raise ValueError(f"{what} differ in shape, expected {expected}") from None
    except Exception as error:  # what other libraries raise for arrays on a GPU or with a gradient
        reason = printable(str(error) or type(error).__name__, 120)
        raise ValueError(f"{what} cannot become a NumPy array ({reason}), expected {expected}") from None


def fault_of_pixels(pixels, scaled=None):
    """What is wrong with RGB pixels, `(..., height, width, 3)`; None where nothing is.

    Right are integers and floats in [0, 255]. Floats whose largest value is above 0 and at most 1 were divided by 255;
    `scaled` says whether they were, where that was judged on all pictures of an array.
    """
    if pixels.ndim < 3 or pixels.shape[-1] != 3 or pixels.size == 0 or not _is_number(pixels.dtype):
        hint = ": move the channels to the end" if pixels.ndim >= 3 and pixels.shape[-3] == 3 else ""
        return f"is {pixels.dtype} {pixels.shape}, expected RGB pixels (height, width, 3){hint}"
    low, high = pixels.min(), pixels.max()
    if not np.isfinite([low, high]).all():
        return "holds NaN or infinity, expected values from 0 to 255"
    if not (low >= 0 and high <= 255):
        return f"has values from {low:g} to {high:g}, expected 0 to 255"
    if pixels.dtype.kind == "f" and (0 < high <= 1 if scaled is None else scaled):
        return f"has values from {low:g} to {high:g}, expected 0 to 255: multiply by 255"
    return None


def images(given, what="images", size=None):
    """Check a set of images and return it as an array.

    Args:
        given: `(n, height, width, 3)` with n ≥ 1, integers or floats in [0, 255].
        what: str, what to call them in the message.
        size: int, the only height and width that will do; None for any.
    """
    if not hasattr(given, "__array__") and not isinstance(given, list | tuple):
        raise ValueError(f"{what} are {type(given).__name__}, expected an array (n, height, width, 3) in [0, 255]")
    array = array_of(given, what, "one array (n, height, width, 3) in [0, 255]")
    if array.ndim != 4 or array.shape[-1] != 3 or array.size == 0:
        raise ValueError(f"{what} have shape {array.shape}, expected (n, height, width, 3) with n ≥ 1")
    if size and array.shape[1:3] != (size, size):
        raise ValueError(f"{what} have shape {array.shape}, expected (n, {size}, {size}, 3)")
    fault = fault_of_pixels(array)
    # One dark picture may be all 0 and 1; a whole set of those was divided by 255 and cut to integers.
    if not fault and len(array) > 1 and array.max() == 1:
        fault = "has values from 0 to 1, expected 0 to 255: keep the pixels as they were stored"
    if fault:
        raise ValueError(f"{what}: the array {fault}")
    return array


def labels(given, n, classes, what="labels"):
    """Check the labels of n images and return them as int64 (n,).

    Args:
        given: integers (n,) or (n, 1), each an index into `classes`; or one-hot, (n, len(classes)).
        n: int, number of images.
        classes: the names of the classes, in order.
        what: str, what to call them in the message.
    """
    k = len(classes)
    array = array_of(given, what, f"integers ({n},)")
    if array.dtype.kind in "OUST":
        given = f"{what} are {array.dtype} such as {shown(array.flat[:1])}"
        raise ValueError(f"{given}, expected integers: classes.index(name) gives a class's number")
    if array.shape == (n, k) and k > 1 and array.dtype.kind in "iufb":
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise ValueError(f"{what} have shape {array.shape}, but their rows are not one-hot: one 1 and else 0")
        return array.argmax(axis=1).astype(np.int64)
    if array.shape == (n, 1):
        array = array[:, 0]
    if array.shape != (n,) or n == 0:
        raise ValueError(f"{what} have shape {array.shape}, expected ({n},), ({n}, 1) or one-hot ({n}, {k}), n ≥ 1")
    if not _is_number(array.dtype):
        raise ValueError(f"{what} are {shown(array.dtype)}, expected integers from 0 to {k - 1}")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= k:
        given = f"{what} are {array.dtype} from {array.min()} to {array.max()}"
        raise ValueError(f"{given}, expected integers from 0 to {k - 1}, the places of {k} classes")
    return array.astype(np.int64)


def split(given, what="split", size=None):
    """Check images and labels that belong together; returns images, labels int64 (n,), and the names of the classes.

    Args:
        given: `Split`, or a pair (images, labels).
        what, size: as in `images`.
    """
    from .data import Split, class_names

    if isinstance(given, tuple) and len(given) == 2:
        given = Split(*given)
    if not (hasattr(given, "images") and hasattr(given, "labels")):
        kind = type(given).__name__
        raise ValueError(f"{what} is a {kind}, expected a Split, or a pair (images, labels) of arrays")
    array = images(given.images, f"{what}.images", size)
    classes = getattr(given, "classes", None)
    classes = Split.classes if classes is None else class_names(None, classes)
    return array, labels(given.labels, len(array), classes, f"{what}.labels"), classes


def probabilities(given, what="probabilities"):
    """Check a model's answers, float (n, k) with n ≥ 1 and k ≥ 2; returns them as float32."""
    array = array_of(given, what, "(n, classes)")
    if array.ndim != 2 or len(array) == 0 or array.shape[1] < 2 or not _is_number(array.dtype):
        raise ValueError(f"{what} are {array.dtype} {array.shape}, expected (n, classes) with n ≥ 1: a row an image")
    array = array.astype(np.float32)
    for i in np.flatnonzero(~np.isfinite(array).all(axis=1))[:1]:
        raise ValueError(f"row {i} of the {what} holds NaN or infinity: the model's training has diverged")
    sums, least = array.sum(axis=1), array.min(axis=1)
    # A softmax computed in bfloat16 misses the sum of 1 by some thousandths.
    for i in np.flatnonzero(~((least >= 0) & (np.abs(sums - 1) < 0.01)))[:1]:
        given = f"row {i} of the {what} has sum {sums[i]:.3g} and smallest value {least[i]:.3g}"
        raise ValueError(f"{given}, expected 1 and at least 0: logits need a softmax first")
    return array


def whole(value, what, least=1):
    """Check a whole number of at least `least`; returns it as int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{what} is {shown(value)}, expected a whole number of at least {least}")
    return int(value)


def _is_number(dtype):
    return dtype.kind in "iuf" and dtype.itemsize <= 8  # TensorFlow knows no long doubles
