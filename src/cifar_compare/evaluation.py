"""Measure a model: accuracy and calibration with intervals, temperature scaling, paired comparison."""

import math
import os
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tqdm import tqdm

from . import checks
from .data import class_names
from .system import keras_defaults, shown


@dataclass(frozen=True, eq=False)
class Result:
    """What a model answered on n images, and how good that is; made by `evaluate` and `score`."""

    probabilities: np.ndarray  # float32 (n, k), k being the number of classes
    labels: np.ndarray  # int64 (n,), the true classes
    accuracy: float  # share of right answers, 0 to 1
    interval: tuple[float, float]  # of the accuracy, 95 %, Clopper-Pearson
    precision: np.ndarray  # float64 (k,), 0 for a class that was never predicted
    recall: np.ndarray  # float64 (k,), 0 for a class that is not among the labels
    confusion: np.ndarray  # int64 (k, k), counts: a row for each true class, a column for each predicted
    nll: float  # mean negative log-likelihood, nats; 0 counts as 1.2e-38, which costs 87.3 nats
    ece: float  # expected calibration error, 0 to 1: 15 bins of equal width (Guo et al. 2017)
    classes: tuple[str, ...]  # names of the k classes

    @property
    def predictions(self):
        """The most probable class of each image, int64 (n,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self):
        """Whether each image was classified rightly, bool (n,)."""
        return self.predictions == self.labels

    def __repr__(self):
        low, high = (100 * end for end in self.interval)
        return (
            f"accuracy {100 * self.accuracy:.2f} % [{low:.2f}, {high:.2f}], nll {self.nll:.3f}, "
            f"ECE {100 * self.ece:.1f} %, n = {len(self.labels)}"
        )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; made by `compare`."""

    n: int  # images
    difference: float  # accuracy of a minus accuracy of b, -1 to 1
    interval: tuple[float, float]  # of the difference, 95 %, paired
    only_a: int  # images that only a got right
    only_b: int  # images that only b got right
    p_value: float  # McNemar's exact test of "neither is better", two-sided

    def __repr__(self):
        low, high = (100 * end for end in self.interval)
        p_value = f"p = {self.p_value:.2g}" if self.p_value else "p < 1e-300"  # too small for a float
        return (
            f"difference {100 * self.difference:+.2f} points [{low:+.2f}, {high:+.2f}], "
            f"right only in a {self.only_a}, only in b {self.only_b}, {p_value}, n = {self.n}"
        )


@keras_defaults()
def evaluate(model, split, batch_size=250, verbose=False) -> Result:
    """Let a model answer every image of a split once, and score the answers.

    Args:
        model: `keras.Model`, pixels in [0, 255] to probabilities (n, k).
        split: `Split`, or a pair (images, labels): images uint8 or float (n, height, width, 3) in [0, 255] with n ≥ 1;
            labels int (n,) or (n, 1), or one-hot (n, k).
        batch_size: int, images at a time; memory grows with this, and not with n.
        verbose: bool, whether to show a progress bar.

    Raises:
        ValueError: images or labels are none, or the model does not take or answer them; nothing was computed yet.
            Also as of `score`, where the answers are no probabilities.
    """
    images, labels, classes = checks.split(split)
    checks.whole(batch_size, "batch_size")
    _check_fit(model, images, classes)
    starts = tqdm(range(0, len(images), batch_size), unit="batch", disable=not verbose)
    # `predict` would copy all the images first, and leaks when called in a loop; this does neither.
    batches = [model.predict_on_batch(images[i : i + batch_size]) for i in starts]
    return score(np.concatenate(batches), labels, classes)


def score(probabilities, labels, classes=None) -> Result:
    """Score probabilities, float (n, k), against true classes.

    Args:
        labels: int (n,) or (n, 1), from 0 to k - 1; or one-hot (n, k).
        classes: names of the k classes; by default CIFAR-10's where k is 10.

    Raises:
        ValueError: a shape or dtype is wrong, a label out of range, or a row no probability distribution, or NaN.
    """
    probabilities = checks.probabilities(probabilities)
    classes = class_names(probabilities.shape[1], classes)
    labels = checks.labels(labels, len(probabilities), classes)
    guesses, numbers = probabilities.argmax(axis=1), range(len(classes))
    right = int((guesses == labels).sum())
    precision, recall, *_ = precision_recall_fscore_support(labels, guesses, labels=numbers, zero_division=0)
    counts, accuracies, confidences = calibration_bins(probabilities, labels)
    return Result(
        probabilities=probabilities,
        labels=labels,
        accuracy=right / len(labels),
        interval=proportion_interval(right, len(labels)),
        precision=precision,
        recall=recall,
        confusion=confusion_matrix(labels, guesses, labels=numbers),
        nll=_nll(probabilities, labels),
        ece=float(np.nansum(counts * np.abs(accuracies - confidences)) / len(labels)),
        classes=classes,
    )


def compare(a, b) -> Comparison:
    """Compare two results on the same images, in the same order.

    The interval is the adjusted Wald interval of Bonett & Price (J. Educ. Behav. Stat. 37, 2012), one that
    Fagerland et al. recommend (Stat. Med. 33, 2014); it has a width also where no answer differs. The exact
    test is the more careful of the two: near p = 0.05 the interval may exclude 0 already.

    Raises:
        ValueError: these are no results, or not of the same images and classes in the same order.
    """
    if not (isinstance(a, Result) and isinstance(b, Result)):
        given = f"a is a {type(a).__name__}, b a {type(b).__name__}"
        raise ValueError(f"{given}, expected two results of cc.evaluate, cc.score or cc.load_predictions")
    if a.classes != b.classes:
        given = f"the classes of a are {shown(a.classes)}, those of b {shown(b.classes)}"
        raise ValueError(f"{given}; expected the same: score both models on the same classes")
    if not np.array_equal(a.labels, b.labels):
        given = f"a has {len(a.labels)} images, b has {len(b.labels)}, and their labels differ"
        raise ValueError(f"{given}: score both models on the same images in the same order")
    n, only_a, only_b = len(a.labels), int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Comparison(n, (only_a - only_b) / n, _paired_interval(only_a, only_b, n), only_a, only_b, p_value)


@keras_defaults()
def calibrate(model, split, batch_size=250, verbose=False) -> float:
    """Fit a temperature on the validation split and fold it into the model, in place; returns it.

    The weights of the network's last Dense layer, which gives the logits, are divided by it. The most probable class
    of each image stays; its probability changes.

    Args:
        As in `evaluate`; the model is one of ours, or of `with_preprocessing`.

    Raises:
        ValueError: as in `evaluate`, or the model has no such layer.
    """
    from .roles import logits_layer, parts

    logits = logits_layer(parts(model)[1])
    result = evaluate(model, split, batch_size, verbose)
    temperature = fit_temperature(result.probabilities, result.labels)
    logits.set_weights([weights / temperature for weights in logits.get_weights()])
    return temperature


def fit_temperature(probabilities, labels) -> float:
    """The T for which softmax(log(probabilities) / T) has the least negative log-likelihood.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599): above 1, the probabilities were over-confident.
    Sought from 1/20 to 20; very small where all is right. Arguments and errors as for `score`.
    """
    probabilities = checks.probabilities(probabilities)
    labels = checks.labels(labels, len(probabilities), range(probabilities.shape[1]))
    bounds = (-math.log(20), math.log(20))
    fit = minimize_scalar(lambda log_t: _nll(probabilities, labels, math.exp(log_t)), bounds=bounds)
    return math.exp(fit.x)


def proportion_interval(successes, n) -> tuple[float, float]:
    """The 95 % Clopper-Pearson interval of a proportion: (0.9352, 0.9446) of 9400 in 10000."""
    low, high = binomtest(int(successes), int(n)).proportion_ci(method="exact") if n else (0, 1)
    return float(low), float(high)


def calibration_bins(probabilities, labels, bins=15):
    """Sort answers by their top probability into bins (0, 1/bins], … of equal width.

    Returns counts, int (bins,), accuracies and mean top probabilities, float64 (bins,), NaN in empty bins.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(at, minlength=bins)
    divisor = np.where(counts, counts, np.nan)
    right = np.bincount(at, weights=probabilities.argmax(axis=1) == labels, minlength=bins)
    return counts, right / divisor, np.bincount(at, weights=confidence, minlength=bins) / divisor


def _nll(probabilities, labels, temperature=1.0):
    # Clipped at the smallest normal float32, so that only what a softmax lost to underflow is lifted.
    logs = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    return float(-log_softmax(logs / temperature, axis=1)[np.arange(len(labels)), labels].mean())


def _paired_interval(only_a, only_b, n):
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    margin = norm.ppf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return float(max(a - b - margin, -1)), float(min(a - b + margin, 1))


def _check_fit(model, images, classes):
    """Find before any work what a model would only say after it, where the model tells its shapes."""
    if not hasattr(model, "predict_on_batch"):
        hint = ": load it first, cc.load_model(name)" if isinstance(model, str | os.PathLike) else ""
        raise ValueError(f"model is {shown(model)}, expected a keras.Model{hint}")
    takes, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if isinstance(gives, tuple) and gives[-1] not in (None, len(classes)):
        raise ValueError(f"the model gives {gives[-1]} probabilities, but the split has {len(classes)} classes")
    fixed = takes[1:] if isinstance(takes, tuple) and len(takes) == 4 else ()
    if any(want not in (None, have) for want, have in zip(fixed, images.shape[1:], strict=False)):
        raise ValueError(f"the model takes {takes}, but the images have shape {images.shape}")
