"""Tiny models of the released ones' shapes, with cards, for the tests of pictures, predictions and command line."""

import hashlib
import json

import numpy as np


def tiny_network(seed=0, classes=10, pooling=True):
    """A network of random weights: pixels (n, 32, 32, 3) in [0, 255] to probabilities (n, classes)."""
    import keras

    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 128)]
    layers += [keras.layers.Conv2D(8, 5, strides=2, activation="relu")]
    layers += [keras.layers.GlobalAveragePooling2D() if pooling else keras.layers.Flatten()]
    layers += [keras.layers.Dense(classes, activation="softmax")]
    network = keras.Sequential(layers, name="own")
    draw = np.random.default_rng(seed)
    network.set_weights([draw.normal(0, 0.3, w.shape) for w in network.get_weights()])
    return network


def save_tiny_models(folder):
    """Write stand-ins of random weights for all released models into `folder`; returns it."""
    import keras

    from cifar_compare.models import resize

    sizes = {"custom_cnn": 32, "mobilenet_v2": 48, "custom_cnn_robust": 32, "mobilenet_v2_robust": 48}
    for seed, (name, input_size) in enumerate(sizes.items()):
        raw, pixels, inside = (keras.Input((None, None, 3)) for _ in range(3))
        seen = resize(raw, 32)
        if input_size != 32:
            seen = resize(seen, input_size)
        preprocessing = keras.Model(raw, seen, name="preprocessing")
        x = keras.layers.Rescaling(1 / 128)(inside)
        x = keras.layers.Conv2D(8, 5, strides=2, activation="relu")(x)
        x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        network = keras.Model(inside, keras.layers.Dense(10, activation="softmax")(x), name="network")
        model = keras.Model(pixels, network(preprocessing(pixels)), name=name)
        draw = np.random.default_rng(seed)
        model.set_weights([draw.normal(0, 0.3, w.shape) for w in model.get_weights()])
        path = folder / f"{name}.keras"
        model.save(path)
        write_card(
            path, test={"accuracy": 0.9512, "interval": [0.9468, 0.9553]}, out_of_distribution={"threshold": 0.5}
        )
    return folder


def write_card(path, **fields):
    """Write the card of a model file beside it."""
    content = path.read_bytes()
    card = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **fields}
    path.with_suffix(".json").write_text(json.dumps(card))


def blocks(height, width, seed=0):
    """A picture of coarse random patches, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
