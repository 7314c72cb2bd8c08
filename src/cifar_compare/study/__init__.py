"""The low-resolution study: what degraded images cost a model, and how much of that its preprocessing takes back.

>>> import cifar_compare as cc
>>> rows = list(cc.study.measure(model, data.test))
>>> cc.study.plots.deliveries(rows)

A *condition* says how the test images are degraded before a model gets them. A *route* leads from those pixels to what
the network sees: through the model's preprocessing, or bypassing it.
"""

import importlib

from . import degrade
from .conditions import CHECK, CONDITIONS, DELIVERIES, NATIVE, ROUTES, Condition
from .measure import CONFIDENT, fill, measure, read, routes

__all__ = [
    "CHECK",
    "CONDITIONS",
    "CONFIDENT",
    "DELIVERIES",
    "NATIVE",
    "ROUTES",
    "Condition",
    "degrade",
    "fill",
    "measure",
    "plots",
    "read",
    "routes",
]


def __getattr__(name):
    if name == "plots":  # only who draws waits for Matplotlib
        return importlib.import_module(".plots", __name__)
    raise AttributeError(f"module 'cifar_compare.study' has no attribute '{name}'; it has {', '.join(__all__)}")
