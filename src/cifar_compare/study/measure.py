"""Measure models under the study's conditions: a row for each model, condition and route, and the table of rows."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import checks
from ..data import digests
from ..evaluation import compare, proportion_interval, score
from ..system import keras_defaults, no_retracing_warning, printable, write
from .conditions import CONDITIONS, DELIVERIES, NATIVE, Condition
from .degrade import checked

CONFIDENT = 0.7  # probability from which a wrong answer counts as confidently wrong
_SECONDS = 0.005, 0.03  # of a model and an image on two cores, and what is added where that has 1080 px

_SHARES = ("accuracy", "flips", "confident_errors", "minus_native", "minus_preprocessing", "minus_first")
_SETTINGS = {key: type(value) for key, value in NATIVE.columns.items()}
_HASHES = dict.fromkeys(("model_sha256", "images_sha256"), str)
# Columns of the table, in order, with the types of their values.
_TYPES = (
    {"id": str, "model": str, "route": str, **_SETTINGS, "ece": float}
    | {share + end: float for share in _SHARES for end in ("", "_low", "_high")}
    | _HASHES
)


def measure(models, split, conditions=DELIVERIES, verbose=False):
    """Measure models under conditions by each route; yields a row for each as soon as it is there.

    Args:
        models: `keras.Model` as `routes` takes it, or a dict of them by name; the others are compared with the first.
        split: `Split` or pair (images, labels); images uint8 (n, 32, 32, 3).
        conditions: `Condition` or a list of them, of CONDITIONS or your own.
        verbose: bool, whether to show a progress bar.

    Yields:
        dict: `id`, `model`, `route`, the condition's fields (`name` as "condition", `n` as it was found), `ece`; then
        shares from 0 to 1, each followed by the ends of its 95 % interval, `_low` and `_high`: `accuracy`; `flips`,
        answers that differ from those to the 32 px images through the preprocessing; `confident_errors`, wrong answers
        with a probability of at least CONFIDENT; and paired differences in accuracy: `minus_native` (from the 32 px
        images through the preprocessing), `minus_preprocessing` (from the same images through the preprocessing),
        `minus_first` (from the first model by the same route; NaN where there is none).

    Raises:
        ValueError: something is not as described, or a model answers other classes than the split's; before any work.
    """
    images, labels, classes = _checked_split(split)
    opened = {name: routes(model) for name, model in _named(models, "models").items()}
    for name, (network, _) in opened.items():
        if network.output_shape[-1] != len(classes):
            given = f"model {name} gives {network.output_shape[-1]} probabilities"
            raise ValueError(f"{given}, but the split has {len(classes)} classes: {', '.join(classes)}")
    keys = digests(images)
    chosen = {each: each.places(keys, labels, classes) for each in _distinct(conditions)}
    return _rows(opened, chosen, images, labels, classes, verbose)


def fill(table, paths, split, conditions=CONDITIONS):
    """Measure the rows that a table lacks, save it after each condition, and return its rows.

    It first prints what is lacking, and about how long that takes.

    A row is kept if model file, condition, images and labels are still the same; rows about other conditions are
    dropped, and all where the first model is another than before.

    Args:
        table: path of the CSV file, which need not exist.
        paths: dict of `.keras` files by name, as `load_model` takes them; the others are compared with the first.
        split, conditions: as in `measure`.
    """
    images, labels, classes = _checked_split(split)
    conditions, first = _distinct(conditions), next(iter(_named(paths, "paths")))
    hashes = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in paths.items()}
    keys, wanted = digests(images), {}
    for each in conditions:
        places = each.places(keys, labels, classes)
        pairs = sorted(zip(keys[places].tolist(), labels[places].tolist(), strict=True))
        images_sha256 = hashlib.sha256(repr(pairs).encode()).hexdigest()
        wanted[each.name] = each.columns | {"n": len(places), "images_sha256": images_sha256}

    def holds(row):
        now = wanted.get(row["condition"], {"condition": None})
        now = now | {"model_sha256": hashes.get(row["model"], row["model_sha256"])}
        return all(row[key] == value for key, value in now.items())

    rows = {row["id"]: row for row in (read(table) if Path(table).exists() else []) if holds(row)}
    leading = [row["minus_first"] for row in rows.values() if row["model"] == first]
    if not leading or not all(map(math.isnan, leading)):
        rows = {}  # the others were compared with another first model
    have = {(row["model"], row["condition"]) for row in rows.values()}
    lacking = [(name, each) for each in conditions for name in paths if (name, each.name) not in have]
    if lacking:
        from ..artefacts import load_model

        models = {name: load_model(paths[name]) for name in paths if name == first or name in dict(lacking)}
        todo = dict.fromkeys(each for _, each in lacking)
        counts = {NATIVE: len(labels)} | {each: wanted[each.name]["n"] for each in todo}
        seconds = len(models) * sum(
            n * (_SECONDS[0] + _SECONDS[1] * (each.size / 1080) ** 2) for each, n in counts.items()
        )
        told = f"{len(todo)} of {len(conditions)} conditions with {', '.join(models)}"
        print(f"{table}: measuring {told}, about {math.ceil(seconds / 60)} min on two cores")
        for condition, made in groupby(measure(models, split, todo, verbose=True), itemgetter("condition")):
            for row in made:
                known = {"model_sha256": hashes[row["model"]], "images_sha256": wanted[condition]["images_sha256"]}
                rows[row["id"]] = row | known
            _write(table, rows.values())
    return list(rows.values())


def read(table):
    """The rows of a table that `fill` wrote: dicts as of `measure`, with the SHA-256 of the model file and the images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a table.
    """
    with open(table, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(_TYPES):
            given = f"{table} has the columns {', '.join(reader.fieldnames or ['(none)'])}"
            raise ValueError(f"{given}, expected {', '.join(_TYPES)}: move it away, and `fill` writes it anew")
        try:
            return [{key: kind(row[key]) for key, kind in _TYPES.items()} for row in reader]
        except (TypeError, ValueError, csv.Error) as error:  # a line that is cut off has None in some columns
            raise ValueError(f"{table}, line {reader.line_num}, is damaged: {error}") from None


@keras_defaults()
def routes(model):
    """The network of a model, and the routes that lead into it: `keras.Model`s, by name, as in ROUTES.

    Each takes pixels of any size, and gives what the network sees. "preprocessing" is the model's own. The others
    bypass it: they resize straight to its input resolution, or to 224 px where that differs and the network takes any
    size, by nearest or bilinear and without antialiasing, as `keras.layers.Resizing` does.

    Args:
        model: `keras.Model` made of a preprocessing and a network; a network alone gets the preprocessing of
            `with_preprocessing`, and raises ValueError as that does.
    """
    import keras

    from .. import roles
    from ..models import IMAGE_SIZE, with_preprocessing

    try:
        preprocessing, network = roles.parts(model)
    except ValueError:
        preprocessing, network = roles.parts(with_preprocessing(model))
    takes, size = preprocessing.input_shape, preprocessing.output_shape[1]
    if takes[1:3] != (None, None) or not size:
        given = f"the preprocessing of {model.name} takes {takes} and gives {preprocessing.output_shape}"
        raise ValueError(f"{given}, expected any height and width, and a fixed size")
    into, sizes = {"preprocessing": preprocessing}, {"": size}
    if size != IMAGE_SIZE and not network.input_shape[1]:
        sizes["-224"] = 224
    for end, side in sizes.items():
        for method in ("nearest", "bilinear"):
            pixels = keras.Input((None, None, 3))
            options = {"interpolation": method, "antialias": False, "data_format": "channels_last"}
            seen = keras.ops.image.resize(pixels, (side, side), **options)
            into[f"bypass-{method}{end}"] = keras.Model(pixels, seen)
    return network, into


def _checked_split(split):
    images, labels, classes = checks.split(split, size=32)
    return checked(images, "split.images"), labels, classes


def _named(given, what):
    """A dict by name, with something in it; a single model goes by its own name."""
    if not isinstance(given, dict) and what == "models":
        given = {getattr(given, "name", "model"): given}
    if not isinstance(given, dict) or not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{what} are {printable(repr(given), 80)}, expected a dict by name with at least one entry")
    return given


def _distinct(conditions):
    """The conditions as a list, each once; two of one name would share the ids of their rows."""
    conditions = list(conditions) if isinstance(conditions, Iterable) else [conditions]
    if not conditions or not all(isinstance(each, Condition) for each in conditions):
        raise ValueError(f"conditions are {printable(repr(conditions), 80)}, expected a list of at least one Condition")
    conditions = list(dict.fromkeys(conditions))
    names = [each.name for each in conditions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several different conditions are named {', '.join(twice)}: give each a name of its own")
    return conditions


def _write(table, rows):
    """Write a table, sorted by id."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_TYPES), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=itemgetter("id")))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    write(table, text.getvalue())


def _rows(opened, chosen, images, labels, classes, verbose):
    first, everything = next(iter(opened)), np.unique(np.concatenate(list(chosen.values())))
    total = len(everything) + sum(len(places) for places in chosen.values())
    with tqdm(total=total, unit="image", disable=not verbose) as bar:
        native = _answers(opened, NATIVE, images[everything], bar)
        for condition, places in chosen.items():
            truth, here = labels[places], np.searchsorted(everything, places)
            answers = _answers(opened, condition, images[places], bar)
            results = {key: score(probabilities, truth, classes) for key, probabilities in answers.items()}
            for (name, route), result in results.items():
                known = score(native[name, "preprocessing"][here], truth, classes)
                rival = results.get((first, route)) if name != first else None
                row = {"id": f"{name}/{condition.name}/{route}", "model": name, "route": route}
                row |= condition.columns | {"n": len(truth)}
                yield row | _figures(result, known, results[name, "preprocessing"], rival)


@keras_defaults()
def _answers(opened, condition, images, bar):
    """Probabilities by model and route; memory does not grow with the number of images."""
    parts = {(name, route): [] for name, (_, into) in opened.items() for route in into if route in condition.routes}
    step = max(1, min(50, 2**25 // (3 * condition.size**2)))
    with no_retracing_warning():
        for start in range(0, len(images), step):
            pixels = condition.degraded(images[start : start + step])
            for (name, route), part in parts.items():
                network, into = opened[name]
                part.append(network.predict_on_batch(into[route].predict_on_batch(pixels)))
            bar.update(len(pixels))
    return {key: np.concatenate(part) for key, part in parts.items()}


def _figures(result, native, preprocessed, first):
    confident = result.probabilities.max(axis=1) >= CONFIDENT
    flips = result.predictions != native.predictions
    hits = {"accuracy": result.right, "flips": flips, "confident_errors": confident & ~result.right}
    measured = {name: (hit.mean(), *proportion_interval(hit.sum(), len(hit))) for name, hit in hits.items()}
    for name, other in (("native", native), ("preprocessing", preprocessed), ("first", first)):
        paired = compare(result, other) if other else None
        measured[f"minus_{name}"] = (paired.difference, *paired.interval) if other else [float("nan")] * 3
    row = {"ece": round(result.ece, 6)}
    for name, values in measured.items():
        row |= {name + end: round(float(v), 6) for end, v in zip(("", "_low", "_high"), values, strict=True)}
    return row
