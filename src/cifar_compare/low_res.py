"""Measure what low resolution costs a model, and how much of that is the way in: a row for each file and way.

A file is a `File`, a line of FILES. A way leads from its pixels to what the network sees, and is one of WAYS.
"""

import csv
import hashlib
import os
from dataclasses import asdict, astuple, dataclass, fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .data import CLASSES, digests
from .degrade import METHODS, SEVERITIES, corrupt, deliver
from .evaluation import compare, proportion_interval, score
from .pictures import no_retracing_warning

WAYS = ("entry", "working-nearest", "working-bilinear", "224-nearest", "224-bilinear")
SURE = 0.7  # probability from which a wrong answer counts as a confident error


@dataclass(frozen=True)
class File:
    """What somebody holds of CIFAR-10: how each image was stored, how many there are, and what is tried with them."""

    file: str  # its name
    study: str
    n: int  # images, as many of each class
    resolution: int = 32  # px, of the content
    size: int = 32  # px, of the file
    method: str = "bicubic"  # of the enlargement to it
    corruption: str = "none"
    severity: int = 0
    only: str = "all"  # a class

    def make(self, images, seed=0):
        """The file's pixels, uint8 (n, size, size, 3), from images of 32×32 px."""
        if self.severity:
            images = corrupt(images, self.corruption, self.severity, seed)
        return deliver(deliver(images, self.resolution, "bicubic"), self.size, self.method)

    def choose(self, split):
        """Which images of a split, int (n,): those of the least digests in each class, in whatever order they lie."""
        labels = range(len(CLASSES)) if self.only == "all" else [CLASSES.index(self.only)]
        order = np.argsort(digests(split.images), kind="stable")
        return np.sort(np.concatenate([order[split.labels[order] == k][: self.n // len(labels)] for k in labels]))

    @property
    def ways(self):
        """Those of WAYS that are measured; the costly ones where they were found to matter."""
        return {"content": WAYS[:1], "corruption": ("entry", "working-bilinear")}.get(self.study, WAYS)


NATIVE = File("content-32", "content", 10_000)  # the test images as they are, through the entry
DELIVERIES = (
    File("native", "delivery", 2000),
    *(File(f"{size}-{method}", "delivery", 2000, 32, size, method) for size in (224, 1080) for method in METHODS),
    # The situation of the published comparison, whose picture was a truck.
    File("published", "published", 2000, 30, 1080, "nearest"),
    File("published-truck", "published", 1000, 30, 1080, "nearest", only="truck"),
)
CHECK = File("check", "check", 200, 30, 1080, "nearest")  # measured in seconds, to be held against the record
# Of corruptions 2,000, which keeps the study of three models within an hour on two slow cores.
FILES = (
    NATIVE,
    *(File(f"content-{size}", "content", 10_000, size) for size in (24, 16, 12, 8)),
    *DELIVERIES,
    *(File(f"{c}-{i}", "corruption", 2000, corruption=c, severity=i) for c in SEVERITIES for i in range(1, 6)),
    CHECK,
)

_TYPES = {field.name: field.type for field in fields(File)} | dict.fromkeys(("id", "model", "way", "model_sha256"), str)
_settings = itemgetter(*(field.name for field in fields(File)))


def study(models, split, files=DELIVERIES, verbose=False):
    """Measure models on files by each way in; yields a row for each.

    Args:
        models: `keras.Model` as in `ways`, or a dict of them by name, the first of which the others are compared with.
        split: has `.images`, uint8 (n, 32, 32, 3), and `.labels`, int (n,).
        files: of FILES; by default those about delivery and entry.
        verbose: whether to show a progress bar.

    Yields:
        dict: `id` and settings; `n`; `ece`; then shares from 0 to 1, each followed by the ends of its 95 % interval,
        `_low` and `_high`: `accuracy`; `flips`, answers unlike those to the 32 px images through the entry;
        `confident_errors`; and paired differences in accuracy: `minus_native` (the 32 px images through the entry),
        `minus_entry` (the same file through the entry), `minus_first` (the first model in its place; NaN for none).
    """
    models = models if isinstance(models, dict) else {models.name: models}
    first, opened = next(iter(models)), {name: ways(model) for name, model in models.items()}
    chosen = {file: file.choose(split) for file in files}
    everything = np.unique(np.concatenate(list(chosen.values())))
    total = len(everything) + sum(len(places) for places in chosen.values())
    with tqdm(total=total, unit="image", disable=not verbose) as bar, no_retracing_warning():
        native = _answers(opened, NATIVE, split.images[everything], bar)
        for file, places in chosen.items():
            labels, here = split.labels[places], np.searchsorted(everything, places)
            answers = _answers(opened, file, split.images[places], bar)
            results = {key: score(probabilities, labels) for key, probabilities in answers.items()}
            for (name, way), result in results.items():
                row = {"id": f"{name}/{file.file}/{way}", "model": name, "way": way, **asdict(file), "n": len(labels)}
                known, rival = native[name, "entry"][here], results.get((first, way)) if name != first else None
                yield row | _measures(result, score(known, labels), results[name, "entry"], rival)


def fill(table, paths, split, files=FILES):
    """Measure the cells that a table lacks, save it after each file, and return its rows.

    Args:
        table: path of the table.
        paths: dict of model files by name; the first is what the others are compared with.
        split, files: as in `study`.
    """
    hashes = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in paths.items()}
    first, wanted, rows = next(iter(paths)), {astuple(file) for file in files}, {}
    for row in read(table):
        if _settings(row) in wanted and row["model_sha256"] == hashes.get(row["model"], row["model_sha256"]):
            rows[row["id"]] = row
    if not any(row["model"] == first for row in rows.values()):
        rows = {}  # the others were compared with another first model
    have = {(row["model"], *_settings(row)) for row in rows.values()}
    lacking = [(name, file) for file in files for name in paths if (name, *astuple(file)) not in have]
    if lacking:
        import keras

        names = [name for name in paths if name == first or name in dict(lacking)]
        models = {name: keras.saving.load_model(paths[name], compile=False) for name in names}
        todo = dict.fromkeys(file for _, file in lacking)
        for _, made in groupby(study(models, split, todo, verbose=True), itemgetter("file")):
            rows |= {row["id"]: row | {"model_sha256": hashes[row["model"]]} for row in made}
            _write(table, rows.values())
    return list(rows.values())


def read(table):
    """The rows of a table, dicts as of `study`; none where there is no such file."""
    if not Path(table).exists():
        return []
    with open(table, newline="", encoding="utf-8") as file:
        return [{key: _TYPES.get(key, float)(value) for key, value in row.items()} for row in csv.DictReader(file)]


def ways(model):
    """The network of a model, and by name the ways into it: `keras.Model`s from pixels of any size to what it sees.

    "entry" is the model's own; the others resize straight to its working size or to 224 px, by nearest or bilinear and
    without antialiasing, as `keras.layers.Resizing` does. A model without layers "entry" and "network" is taken for
    the network, and gets an entry as ours have; it must be of a fixed size and want pixels in [0, 255].
    """
    import keras

    from .models import ENTRY_SIZE, behind_entry, working_size

    if {"entry", "network"} <= {layer.name for layer in model.layers}:
        network = model.get_layer("network")
    elif model.input_shape[1]:
        network, model = model, behind_entry(model, model.input_shape[1], model.name)
    else:
        given = f"{model.name} has no layers 'entry' and 'network', and takes {model.input_shape}"
        raise ValueError(f"{given}, expected such layers or a fixed size")
    looks, sizes = {"entry": model.get_layer("entry")}, {"working": working_size(model)}
    if sizes["working"] != ENTRY_SIZE and not network.input_shape[1]:
        sizes["224"] = 224
    for name, size in sizes.items():
        for method in ("nearest", "bilinear"):
            pixels = keras.Input((None, None, 3))
            seen = keras.ops.image.resize(pixels, (size, size), interpolation=method, antialias=False)
            looks[f"{name}-{method}"] = keras.Model(pixels, seen)
    return network, looks


def _write(table, rows):
    """Write a table in one step, sorted by id, so that an interruption leaves the old one or the new one."""
    rows, partial = sorted(rows, key=itemgetter("id")), Path(f"{table}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, table)


def _answers(opened, file, images, bar):
    """Probabilities by model and way; memory does not grow with the number of images."""
    parts = {(name, way): [] for name, (_, looks) in opened.items() for way in looks if way in file.ways}
    step = max(1, min(50, 2**25 // (3 * file.size**2)))
    for start in range(0, len(images), step):
        pixels = file.make(images[start : start + step])
        for (name, way), part in parts.items():
            network, looks = opened[name]
            part.append(network.predict_on_batch(looks[way].predict_on_batch(pixels)))
        bar.update(len(pixels))
    return {key: np.concatenate(part) for key, part in parts.items()}


def _measures(result, native, entered, first):
    sure = result.probabilities.max(axis=1) >= SURE
    flips = result.predictions != native.predictions
    hits = {"accuracy": result.right, "flips": flips, "confident_errors": sure & ~result.right}
    measured = {name: (hit.mean(), *proportion_interval(hit.sum(), len(hit))) for name, hit in hits.items()}
    for name, other in (("native", native), ("entry", entered), ("first", first)):
        paired = compare(result, other) if other else None
        measured[f"minus_{name}"] = (paired.difference, *paired.interval) if other else [float("nan")] * 3
    row = {"ece": round(result.ece, 6)}
    for name, values in measured.items():
        row |= {name + end: round(float(v), 6) for end, v in zip(("", "_low", "_high"), values, strict=True)}
    return row
