"""Write a network for LiteRT, which runs on phones and without TensorFlow."""

import os
from pathlib import Path

from . import roles
from .system import keras_defaults


@keras_defaults()
def export(model, path, precision="float32"):
    """Write the network of a model for LiteRT (TensorFlow Lite until 2024).

    The preprocessing stays behind, because LiteRT has no antialiased resize: feed float32 pixels in [0, 255] of shape
    `(n, size, size, 3)`, size being the network's input resolution (`input_size` on its card), and get probabilities,
    float32, `(n, classes)`.

    Args:
        model: a name or path as in `load_model`, and its errors; or a `keras.Model` that is a preprocessing and a
            network in a row, as of `with_preprocessing`.
        path: str or path of the file to write, ending in ".tflite".
        precision: of the weights: "float32", "float16" (half the size) or "int8" (a quarter; one scale a channel,
            activations are quantised as they come).

    Raises:
        ValueError: another precision or ending, or another kind of model.
        FileNotFoundError: the folder to write to does not exist.
    """
    path = Path(os.path.abspath(os.path.expanduser(path)))
    if precision not in ("float32", "float16", "int8") or path.suffix != ".tflite":
        given = f"got {precision!r} and {str(path)!r}"
        raise ValueError(f"{given}, expected float32, float16 or int8, and a name that ends in .tflite")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write to; make it first")
    if isinstance(model, str | os.PathLike):
        from .artefacts import load_model

        model = load_model(model)
    size, (_, network) = roles.input_size(model), roles.parts(model)
    import keras
    import tensorflow as tf  # the converter's settings have no counterpart in Keras

    settings = {} if precision == "float32" else {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if precision == "float16":
        settings["target_spec"] = {"supported_types": [tf.float16]}
    signature = [keras.InputSpec(dtype="float32", shape=(None, size, size, 3), name="pixels")]
    network.export(str(path), format="litert", verbose=False, input_signature=signature, **settings)
