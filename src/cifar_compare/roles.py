"""Find the parts of a model by what they do, not by their names, and say which one is missing."""

import math

from keras import Model, activations, layers

_AFTER_POOLING = (layers.Rescaling, layers.Dropout)
_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def parts(model):
    """The two sub-models that our models are made of: (preprocessing, network).

    The first turns pixels of any size into those the network was trained on, the second these into probabilities.

    Raises:
        ValueError: `model` is made otherwise; `with_preprocessing` makes such a model of a network.
    """
    found = [layer for layer in getattr(model, "layers", ()) if isinstance(layer, Model)]
    if len(found) == 2 and len(found[0].output_shape) == 4 and len(found[1].output_shape) == 2:
        return tuple(found)
    name = getattr(model, "name", type(model).__name__)
    raise ValueError(
        f"{name} is not a preprocessing and a network in a row; cc.with_preprocessing(network) makes such a model"
    )


def input_size(model):
    """Input resolution of the network: side in px of the square that the preprocessing hands to it."""
    return parts(model)[0].output_shape[1]


def logits_layer(network):
    """The dense layer that gives a network's logits: it is linear, and only the softmax follows.

    Raises:
        ValueError: there is no such layer.
    """
    *_, logits, last = [None, None, *network.layers]
    if not (isinstance(logits, layers.Dense) and logits.activation is activations.linear and is_softmax(last)):
        ends = ", ".join(f"{type(layer).__name__} '{layer.name}'" for layer in (logits, last) if layer)
        raise ValueError(
            f"network '{network.name}' ends in {ends}, expected a linear Dense layer, which gives the logits, and a "
            "Softmax; cc.with_preprocessing(network) splits a Dense layer with a softmax inside"
        )
    return logits


def is_softmax(layer):
    """Whether a layer is a softmax and nothing else."""
    return isinstance(layer, layers.Softmax) or (
        isinstance(layer, layers.Activation)
        and (layer.activation is activations.softmax or isinstance(layer.activation, layers.Softmax))
    )


def pooling_layer(network):
    """The global pooling before the logits: only constant factors stand between.

    Raises:
        ValueError: there is no such layer, as where a network flattens its last feature map.
    """
    for layer in reversed(network.layers[: network.layers.index(logits_layer(network))]):
        if isinstance(layer, _POOLING):
            return layer
        if not isinstance(layer, _AFTER_POOLING):
            break
    given = f"network '{network.name}' has {type(layer).__name__} '{layer.name}' before its logits"
    raise ValueError(f"{given}, expected global average or maximum pooling, which keeps apart what each place adds")


def layers_of(network, kind=layers.Layer):
    """Yield the layers of one kind, in a network and in the models that are layers of it."""
    for layer in network.layers:
        if isinstance(layer, Model):
            yield from layers_of(layer, kind)
        elif isinstance(layer, kind):
            yield layer


def multiply_adds(model):
    """Multiply-adds of the convolutions and dense layers for one picture; preprocessing and activations are left out.

    Raises:
        ValueError: the network has models among its layers, which are not counted.
    """
    size, network = input_size(model), parts(model)[1]
    if nested := [layer.name for layer in network.layers if isinstance(layer, Model)]:
        raise ValueError(f"cannot count the multiply-adds of {', '.join(nested)}, models among the network's layers")
    counted = [layer for layer in network.layers if hasattr(layer, "kernel")]
    shapes = Model(network.inputs, [layer.output for layer in counted]).compute_output_shape((1, size, size, 3))
    # Every weight of a kernel is used once at each place of the output (shape (1, height, width, c), or (1, c)).
    return sum(
        math.prod(layer.kernel.shape) * math.prod(shape[1:-1]) for layer, shape in zip(counted, shapes, strict=True)
    )
