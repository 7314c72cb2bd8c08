"""Make a training step faster while it lasts: half precision, and kernels that pass over their values once."""

import contextlib
import functools

import keras

from .hardware import accelerators, has_bfloat16
from .roles import is_softmax, layers_of

# Their values are few, and the logits and the normalised pixels need the digits.
_ALWAYS_FLOAT32 = (keras.layers.Normalization, keras.layers.Rescaling, keras.layers.Dense, keras.layers.Softmax)


def training_dtype(recipe):
    """The dtype policy that a recipe's network is trained in on this machine."""
    return "mixed_bfloat16" if recipe.mixed_precision and has_bfloat16() else "float32"


@contextlib.contextmanager
def precision(network, dtype):
    """Let the inner layers of a network compute in `dtype` meanwhile; its variables stay float32."""
    inner = [layer for layer in layers_of(network) if not isinstance(layer, _ALWAYS_FLOAT32)]
    # A kernel that is not trained is the whitening of the first layer, which needs float32 as well.
    inner = [layer for layer in inner if getattr(getattr(layer, "kernel", None), "trainable", True)]
    usual = [layer.dtype_policy for layer in inner]
    if dtype != "float32":
        for layer in inner:
            layer.dtype_policy = dtype
    try:
        yield
    finally:
        for layer, policy in zip(inner, usual, strict=True):
            layer.dtype_policy = policy


@contextlib.contextmanager
def fused(network):
    """Let BatchNorm and activations pass over their values once meanwhile, on TensorFlow and processors.

    Keras composes them of elementary operations, each of which reads and writes all values: half of a step's time.
    """
    norms = [layer for layer in layers_of(network, keras.layers.BatchNormalization) if _can_be_fused(layer)]
    activations = [layer for layer in layers_of(network, keras.layers.Activation) if not is_softmax(layer)]
    usual = [layer.activation for layer in activations]
    if keras.backend.backend() == "tensorflow" and not accelerators():
        for layer in activations:
            layer.activation = _compiled(layer.activation)
        for layer in norms:
            layer.call = functools.partial(_normalise, layer)
    try:
        yield
    finally:
        for layer, activation in zip(activations, usual, strict=True):
            layer.activation = activation
        for layer in norms:
            vars(layer).pop("call", None)


@functools.cache
def _compiled(function):
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def _can_be_fused(norm):
    return norm.center and norm.axis in (-1, 3) and not norm.synchronized and norm.input_spec.ndim == 4


def _normalise(layer, values, training=None, mask=None):
    """What a BatchNorm layer does, by TensorFlow's one operation for it."""
    if not (training and layer.trainable):
        return type(layer).call(layer, values, training, mask)
    import tensorflow as tf

    shift = keras.ops.cast(layer.beta, "float32")
    scale = keras.ops.cast(layer.gamma, "float32") if layer.scale else keras.ops.ones_like(shift)
    # Its variance is the unbiased one, n / (n - 1) times Keras's: of 4,500 values or more, as good as the same.
    normalised, *measured = tf.compat.v1.nn.fused_batch_norm(values, scale, shift, epsilon=layer.epsilon)
    for moving, value in zip((layer.moving_mean, layer.moving_variance), measured, strict=True):
        moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
    return normalised
