"""Recipes: everything that a training depends on besides the model and the data."""

import dataclasses
import dis
import functools
import hashlib
import inspect
import math
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable

import keras
import numpy as np

from .augmentation import augment
from .checkpoints import digest
from .models import INTERPOLATION
from .optimizers import SGD
from .system import shown

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
_TOLD_BY_REPR = (np.ufunc, np.dtype, os.PathLike, bytes, complex, range, slice, type(...), re.Pattern)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained; a variant is `dataclasses.replace(recipe, seed=1)`.

    Raises ValueError where a field makes no sense.
    """

    name: str  # of the model, and of the checkpoint's folder
    stages: tuple[tuple[int, int], ...]  # (epochs, input resolution in px) in turn, the model's own resolution last
    batch_size: int  # images a step
    learning_rate: float  # peak, for the mean loss of one batch; cosine from there to zero or the rate of `averaging`
    warmup: float  # share of these steps on which the learning rate climbs from zero to its peak
    optimizer: Callable  # called with the learning rate's schedule, returns a `keras.optimizers.Optimizer`
    # Called with images (n, 32, 32, 3), one-hot labels (n, classes) and a `numpy.random.Generator` for each batch,
    # returns images and labels; None for images as they are. `cc.augment` is one.
    augmentation: Callable | None = None
    flip: bool = True  # mirror every image in every second epoch (alternating flip: Jordan 2024, arXiv:2404.00498)
    # (epochs, share of the peak) at the end, at a constant rate: what remains is the mean of the weights over all these
    # steps (stochastic weight averaging: Izmailov et al. 2018, arXiv:1803.05407), with BatchNorm measured anew
    averaging: tuple[int, float] | None = None
    label_smoothing: float = 0.0  # probability spread over all classes
    enlargements: tuple[str, ...] = (INTERPOLATION,)  # to the input resolution, a step by each in turn
    mixed_precision: bool = False  # multiply in bfloat16 on machines that have instructions for it
    head_epochs: int = 0  # epochs of the last layer alone, on features computed once, before everything learns
    seed: int = 0  # of data order and augmentation
    expected_accuracy: tuple[float, float] = (0.0, 1.0)  # on the test split
    expected_minutes: float = math.inf  # on two processor cores

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        pairs = isinstance(self.stages, tuple) and all(isinstance(s, tuple) and len(s) == 2 for s in self.stages)
        enlargements = self.enlargements if isinstance(self.enlargements, tuple) else ()
        for right, field, expected in (
            (isinstance(self.name, str) and self.name, "name", "a text"),
            (pairs and self.stages, "stages", "at least one pair (epochs, px)"),
            (pairs and all(_whole(n, 1) for s in self.stages for n in s), "stages", "whole numbers of at least 1"),
            (_whole(self.batch_size, 1), "batch_size", "a whole number of at least 1"),
            (_between(self.learning_rate, 0, math.inf), "learning_rate", "a finite number of at least 0"),
            (_between(self.warmup, 0, 1), "warmup", "a share from 0 to below 1"),
            (callable(self.optimizer), "optimizer", "a callable that takes a learning rate schedule"),
            (self.augmentation is None or callable(self.augmentation), "augmentation", "a callable, or None"),
            (isinstance(self.flip, bool), "flip", "True or False"),
            (self.averaging is None or _is_averaging(self.averaging), "averaging", "(epochs, share of the peak)"),
            (_between(self.label_smoothing, 0, 1), "label_smoothing", "a share from 0 to below 1"),
            (enlargements and all(e in _INTERPOLATIONS for e in enlargements), "enlargements", _INTERPOLATIONS),
            (isinstance(self.mixed_precision, bool), "mixed_precision", "True or False"),
            (_whole(self.head_epochs, 0), "head_epochs", "a whole number of at least 0"),
            (_whole(self.seed, 0), "seed", "a whole number of at least 0"),
        ):
            if not right:
                raise ValueError(f"the recipe's {field} is {shown(getattr(self, field))}, expected {expected}")

    @property
    def epochs(self):
        """Number of epochs over all stages."""
        return sum(epochs for epochs, _ in self.stages)

    def input_size(self, epoch):
        """Input resolution in px during `epoch`, counted from 0."""
        return [size for epochs, size in self.stages for _ in range(epochs)][epoch]

    @property
    def averaged_epochs(self):
        """Number of epochs at the end over which the weights are averaged."""
        return min(self.averaging[0], self.epochs) if self.averaging else 0


def describe(value, _inside=()):
    """A recipe, or a part of one, as it comes back from JSON: what is the same is described alike.

    A function or class of yours is described by its name, a digest of its code, and all that the code reads: default
    arguments, variables around it, globals, and the object that a method belongs to.

    Raises:
        ValueError: an object that cannot be told from others of its class.
    """
    inner = functools.partial(describe, _inside=_inside)
    if isinstance(value, functools.partial):
        return {**_named(value.func, _inside), **inner({**dict(enumerate(value.args)), **value.keywords})}
    if inspect.isroutine(value) or inspect.isclass(value):
        return _named(value, _inside)
    if dataclasses.is_dataclass(value):
        fields = {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return fields if isinstance(value, Recipe) else {**_named(type(value), _inside), **fields}
    if isinstance(value, dict):
        return {str(key): inner(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [inner(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(inner(each)) for each in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return inner(value.item())
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return digest(value)
    if isinstance(value, _TOLD_BY_REPR):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, types.CodeType):  # its names and line numbers mean nothing
        return [value.co_code.hex(), list(value.co_names), inner(value.co_consts)]
    if hasattr(value, "get_config"):
        return {**_named(type(value), _inside), **inner(value.get_config())}
    given = f"an object of {type(value).__name__}{f' that {_inside[-1].__qualname__} reads' if _inside else ''}"
    raise ValueError(
        f"{given} in a recipe cannot be told from others, nor a training resumed with it; use plain values and arrays, "
        "a function, a partial or a dataclass"
    )


def _named(function, inside):
    package = (getattr(function, "__module__", None) or "builtins").partition(".")[0]
    named = {"function": f"{package}.{function.__qualname__}"}
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        named["of"] = describe(owner, inside)
    function = getattr(function, "__func__", function)
    if package in ("cifar_compare", "keras") or any(function is each for each in inside):
        return named
    held = {}
    # What an installed package reads in turn is left out.
    if not _is_installed(function):
        held = {name: describe(each, (*inside, function)) for name, each in _read_by(function).items()}
    try:
        code = str(describe(function.__code__) if hasattr(function, "__code__") else inspect.getsource(function))
    except (OSError, TypeError):  # typed at a prompt, or made of C
        code = ""
    return {**named, "source": hashlib.sha256(code.encode()).hexdigest()[:16], **({"reads": held} if held else {})}


def _is_installed(function):
    path = getattr(sys.modules.get(function.__module__), "__file__", None)
    folders = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return path is not None and any(path.startswith(folder + os.sep) for folder in folders)


def _read_by(function):
    """The values that a function reads, or the methods of a class, by name."""
    if inspect.isclass(function):
        members = {k: v for k, v in vars(function).items() if not k.startswith("__") or inspect.isfunction(v)}
        members = {k: getattr(v, "__func__", getattr(v, "fget", v)) for k, v in members.items()}
        bases = {base.__qualname__: base for base in function.__bases__ if base is not object}
        return {k: v for k, v in members.items() if not inspect.isdatadescriptor(v)} | bases
    read = {"wrapped": function.__wrapped__} if hasattr(function, "__wrapped__") else {}
    if not hasattr(function, "__code__"):
        return read
    around = inspect.getclosurevars(function).nonlocals
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    return read | around | {f"default {k}": v for k, v in defaults.items()} | _globals(function)


def _globals(function):
    found, codes = {}, [function.__code__]
    for code in codes:  # which grows by the functions inside
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for name in {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}:
            if name in function.__globals__:
                value = found[name] = function.__globals__[name]
                if isinstance(value, types.ModuleType):
                    parts = {part: getattr(value, part) for part in code.co_names if hasattr(value, part)}
                    found |= {f"{name}.{part}": each for part, each in parts.items()}
    return dict(sorted(found.items()))


def _plain(value):
    """Lists as tuples, and NumPy's numbers as Python's, which alone are JSON."""
    if isinstance(value, list | tuple):
        return tuple(_plain(each) for each in value)
    return value.item() if isinstance(value, np.generic) else value


def _whole(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _between(value, low, end):
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < end


def _is_averaging(value):
    return isinstance(value, tuple) and len(value) == 2 and _whole(value[0], 1) and _between(value[1], 1e-9, 1.0001)


RECIPES = {
    # After airbench94 and 96 (Jordan 2024, arXiv:2404.00498): a learning rate of 9 per 1,024 examples of a summed
    # loss is 0.57 for the mean over 500, and a decay of 0.012 becomes 0.009 once momentum no longer multiplies it.
    "custom_cnn": Recipe(
        name="custom_cnn",
        stages=((12, 24), (36, 32)),
        batch_size=500,
        learning_rate=0.57,
        warmup=0.2,
        optimizer=functools.partial(SGD, momentum=0.85, weight_decay=0.009, bias_factor=64.0),
        augmentation=functools.partial(augment, shift=4, cutout=12),
        averaging=(6, 0.08),
        label_smoothing=0.2,
        mixed_precision=True,
        expected_accuracy=(0.945, 0.956),
        expected_minutes=90,
    ),
    # Head first, so that its random start does not shake the pretrained features (Kumar et al. 2022, arXiv:2202.10054);
    # the first epochs at 96 px, which take half the time of 128 px.
    "mobilenet_v2": Recipe(
        name="mobilenet_v2",
        stages=((6, 96), (8, 128)),
        batch_size=100,
        learning_rate=4e-4,
        warmup=0.1,
        optimizer=functools.partial(keras.optimizers.AdamW, weight_decay=0.05),
        augmentation=functools.partial(augment, shift=4, cutout=8),
        label_smoothing=0.1,
        head_epochs=5,
        expected_accuracy=(0.950, 0.965),
        expected_minutes=80,
    ),
}
# The robust models go on from the released ones: half of the images get a fault of cameras or files, so that they hold
# where a picture is noisy, blurred, compressed, pale, in blocks or off its centre. What is released is a mean of the
# weights before and after (scripts/release.py).
RECIPES["custom_cnn_robust"] = dataclasses.replace(
    RECIPES["custom_cnn"],
    name="custom_cnn_robust",
    stages=((2, 24), (5, 32)),
    learning_rate=0.2,
    warmup=0.1,
    augmentation=functools.partial(augment, shift=4, corrupt=0.5, cutout=8),
    averaging=(2, 0.2),
    expected_accuracy=(0.940, 0.955),
    expected_minutes=75,
)
# Also sees its pictures enlarged sharp and soft, and larger than its input resolution, so that it holds where the
# preprocessing is bypassed.
RECIPES["mobilenet_v2_robust"] = dataclasses.replace(
    RECIPES["mobilenet_v2"],
    name="mobilenet_v2_robust",
    stages=((1, 96), (1, 160), (1, 128)),
    learning_rate=2e-4,
    augmentation=functools.partial(augment, shift=4, corrupt=0.5, cutout=8),
    enlargements=("bicubic", "nearest", "bilinear"),
    head_epochs=0,
    expected_accuracy=(0.942, 0.960),
    expected_minutes=30,
)
# For one GPU, longer, with CutMix, which pays in long trainings only; docs/experiments.md has the runs that they are
# based on. Meant for a CNN whose first layer learns and a MobileNetV2 whose BatchNorm does. Not trained yet, so that
# nothing is known of accuracy and time.
_ON_GPU = {
    "augmentation": functools.partial(augment, shift=4, cutmix=0.5),
    "label_smoothing": 0.1,
    "expected_accuracy": (0.0, 1.0),
    "expected_minutes": math.inf,
}
RECIPES["custom_cnn_gpu"] = dataclasses.replace(
    RECIPES["custom_cnn"],
    **{**_ON_GPU, "name": "custom_cnn_gpu", "stages": ((225, 32),), "averaging": None},
)
RECIPES["mobilenet_v2_gpu"] = dataclasses.replace(
    RECIPES["mobilenet_v2"],
    **{**_ON_GPU, "name": "mobilenet_v2_gpu", "stages": ((40, 128),), "batch_size": 250, "learning_rate": 1e-3},
    mixed_precision=True,
)
