"""CIFAR-10: a CNN trained from scratch beside a fine-tuned MobileNetV2.

>>> import cifar_compare as cc
>>> data = cc.load_cifar10()
>>> result = cc.evaluate(cc.load_model("custom_cnn"), data.test)
>>> cc.plots.confusion(result)

Names are imported on first use, so that importing the package stays free of TensorFlow.
"""

import importlib
import os

# TensorFlow turns its oneDNN kernels on by itself only where the processor has AVX-512 VNNI; without them a
# two-core AVX2 machine trains both networks at half the speed. Read by TensorFlow when it is first imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_HOME_OF = {
    "CLASSES": "data",
    "DataError": "data",
    "Data": "data",
    "Split": "data",
    "load_cifar10": "data",
    "make_toy_data": "data",
    "build_custom_cnn": "models",
    "build_mobilenet_v2": "models",
    "with_preprocessing": "models",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "SGD": "optimizers",
    "augment": "augmentation",
    "TrainingError": "checkpoints",
    "train": "training",
    "calibrate": "evaluation",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "score": "evaluation",
    "export": "litert",
    "load_card": "artefacts",
    "load_model": "artefacts",
    "load_predictions": "artefacts",
    "ArtefactError": "artefacts",
    "PictureError": "pictures",
    "notebook": "notebooks",
    "evidence_map": "prediction",
    "predict": "prediction",
}
_MODULES = ("few_images", "plots", "study")
__all__ = [*_MODULES, *_HOME_OF]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value  # `export` is a module as well, whose import would put itself in the function's place
        return value
    raise AttributeError(f"module 'cifar_compare' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__():
    return sorted([*globals(), *__all__])
