"""Ask a model about people's own pictures: one code path for the notebooks and the command line."""

import itertools
import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from . import checks, roles
from .data import class_names
from .pictures import list_pictures, read_batches
from .system import keras_defaults, no_retracing_warning


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says about one picture.

    Attributes:
        picture: str, path of the file; "picture 0", "picture 1" … for arrays, bytes and images without one.
        label: str, the most probable class.
        probability: float in 0..1, its calibrated probability.
        top: tuple of (class, probability), most probable first.
        probabilities: float32 `(k,)` in the order of `classes`.
        out_of_distribution: bool, the picture is probably of none of the classes: its probability is below the
            threshold on the model's card, as it is for 5 % of the validation images (maximum softmax probability,
            Hendrycks & Gimpel 2017, arXiv:1610.02136). None where the model has no card.
        classes: tuple of str, the names of the k classes.
    """

    picture: str
    label: str
    probability: float
    top: tuple
    probabilities: np.ndarray
    out_of_distribution: bool | None
    classes: tuple


# A model taken apart; from its card, where it has one, the file's hash and the threshold of `out_of_distribution`.
Classifier = namedtuple("Classifier", "name preprocessing network classes sha256 threshold", defaults=(None, None))


def predict(model, pictures, top=None, batch_size=64, on_error=None, classes=None):
    """Classify pictures of any size.

    Args:
        model: a name or path as in `load_model`, or a `keras.Model` that is a preprocessing and a network in a row.
        pictures: path of a file or folder (see `list_pictures`), the bytes of a picture file or a binary file object,
            RGB pixels `(h, w, 3)` or `(n, h, w, 3)`, uint8 or float in [0, 255], PIL image, or an iterable of any of
            these, such as an array or a column of paths.
        top: int from 1 to the number of classes, length of `Answer.top`; by default 3, or all where there are fewer.
        batch_size: int, pictures the network sees at once.
        on_error: function given the `PictureError` of each unreadable picture, which is then left out, as in
            `bad = []; predict(..., on_error=bad.append)`. Without it the first one is raised, for folders and
            lists too, so that no picture goes missing unnoticed.
        classes: names of the model's classes, in order; by default those on its card, else those of CIFAR-10 where
            there are ten, else "class 0", "class 1" ….

    Returns:
        list of `Answer` in the order of the pictures.

    Raises:
        PictureError: a picture cannot be read, and there is no `on_error`.
        ArtefactError: the named model is missing or damaged.
        ValueError: `top`, `batch_size` or `classes` do not fit, or the model's answers are no probabilities, as after
            a training that diverged.
    """
    checks.whole(batch_size, "batch_size")
    classifier = open_classifier(model, classes)
    top = top_of(top, classifier)
    batches = read_batches(list_pictures(pictures), 4 * batch_size, on_error)
    return [answer for batch in batches for answer in classify(classifier, batch, top, batch_size)]


def top_of(top, classifier):
    """How many classes to tell of each picture: checked, or where it is None 3, or all where there are fewer."""
    k = len(classifier.classes)
    if top is not None and checks.whole(top, "top") > k:
        raise ValueError(f"top is {top}, expected 1 to {k}, the number of classes of {classifier.name}")
    return min(3, k) if top is None else int(top)


@keras_defaults()
def open_classifier(model, classes=None):
    """Take a model apart, given as in `predict`; errors are as there."""
    name, sha256, threshold = getattr(model, "name", ""), None, None
    if isinstance(model, str | os.PathLike):
        from . import artefacts

        path, card = artefacts.path_of(model), artefacts.find_card(model)
        name, sha256 = Path(model).stem, card.get("sha256")
        threshold = card.get("out_of_distribution", {}).get("threshold")
        classes = card.get("classes") if classes is None else classes
        status = path.stat() if path and os.path.exists(path) else None
        model = _load(str(path or model), sha256 or (status and (status.st_mtime_ns, status.st_size)))
    elif not hasattr(model, "layers"):
        expected = "the name of a released model, the path of a .keras file or a keras.Model"
        raise ValueError(f"model is a {type(model).__name__}, expected {expected}")
    preprocessing, network = roles.parts(model)
    return Classifier(name, preprocessing, network, class_names(network.output_shape[1], classes), sha256, threshold)


@keras_defaults()
def classify(classifier, batch, top, batch_size=64):
    """Answer for one list of `read_batches`: preprocessing by picture size, the network on `batch_size` at a time."""
    places_of = {}
    for place, (_, pixels) in enumerate(batch):
        places_of.setdefault((pixels.shape, pixels.dtype), []).append(place)
    seen = {}
    groups = (np.stack([batch[place][1] for place in places]) for places in places_of.values())
    with no_retracing_warning(), ThreadPoolExecutor(2) as pool:
        # From its second size on, predict_on_batch is compiled for any; a plain call takes forty small steps in Python.
        preprocessed = pool.map(classifier.preprocessing.predict_on_batch, groups)
        for places, pixels in zip(places_of.values(), preprocessed, strict=True):
            seen.update(zip(places, pixels, strict=True))
        inputs = np.stack([seen[place] for place in range(len(batch))])
        starts = range(0, len(inputs), batch_size)
        answers = [classifier.network.predict_on_batch(inputs[i : i + batch_size]) for i in starts]
    probabilities = checks.probabilities(np.concatenate(answers), f"probabilities of {classifier.name}")
    return [_answer(classifier, name, row, top) for (name, _), row in zip(batch, probabilities, strict=True)]


@keras_defaults()
def evidence_map(model, picture, label=None, classes=None):
    """What each place of a network's last feature map adds to the logit of a class.

    All that follows is linear, so that this needs no gradient. Behind average pooling it is class activation
    mapping (Zhou et al. 2016, arXiv:1512.04150), which is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) with
    the evidence against the class kept. Behind maximum pooling a channel adds where it is largest; ties share.

    Args:
        model, classes: as in `predict`.
        picture: as in `predict`, but a single one.
        label: str, one of the model's classes; None for the answer.

    Returns:
        float32 `(h, w)`, nats, over the centre square that the preprocessing cuts out; the sum is the logit less its
        bias.

    Raises:
        ValueError: the network has no global pooling before its logits, no class of that name, or diverged in training.
        PictureError, ArtefactError: as in `predict`.
    """
    import keras

    classifier = open_classifier(model, classes)
    if label is not None and label not in classifier.classes:
        raise ValueError(f"label is {label!r:.100}, expected None or one of {', '.join(classifier.classes)}")
    listed = list(itertools.islice(list_pictures(picture), 2))
    if len(listed) != 1:
        raise ValueError(f"picture holds {'several pictures' if listed else 'nothing'}, expected a single one")
    ((_, read),) = listed
    pool, logits = roles.pooling_layer(classifier.network), roles.logits_layer(classifier.network)
    body, head = keras.Model(classifier.network.inputs, pool.input), keras.Model(pool.output, logits.output)
    (features,) = keras.ops.convert_to_numpy(body(classifier.preprocessing(read()[None]))).astype(np.float32)
    counts = np.ones_like(features)
    if isinstance(pool, keras.layers.GlobalMaxPooling2D):
        counts = (features == features.max(axis=(0, 1))).astype(np.float32)
    shares = (features * counts / counts.sum(axis=(0, 1))).reshape(-1, features.shape[-1])
    bias, *added = keras.ops.convert_to_numpy(head(np.pad(shares, ((1, 0), (0, 0))))).astype(np.float32)
    added = np.array(added) - bias  # a row of zeros in front gave the bias
    if not np.isfinite(added).all():
        raise ValueError(f"the logits of {classifier.name} hold NaN or infinity: the model's training has diverged")
    column = (added.sum(axis=0) + bias).argmax() if label is None else classifier.classes.index(label)
    return added[:, column].reshape(features.shape[:2])


def _answer(classifier, name, row, top):
    ranked = tuple((classifier.classes[index], float(row[index])) for index in np.argsort(-row, kind="stable")[:top])
    outside = None if classifier.threshold is None else ranked[0][1] < classifier.threshold
    return Answer(name, *ranked[0], ranked, row, outside, classifier.classes)


@lru_cache(maxsize=4)
def _load(model, stamp):  # the stamp is there so that a model replaced on disk is loaded anew
    from .artefacts import load_model

    return load_model(model)
