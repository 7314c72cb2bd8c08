"""Tiny models of the shipped ones' shapes, with cards, for the tests of pictures and command line."""

import hashlib
import json

import numpy as np


def save_tiny_models(folder):
    """Write stand-ins of random weights for all shipped models into `folder`; returns it."""
    import keras

    from cifar_compare.models import resize

    sizes = {"custom_cnn": 32, "mobilenet_v2": 48, "mobilenet_v2_robust": 48}
    for seed, (name, working_size) in enumerate(sizes.items()):
        raw, pixels, inside = (keras.Input((None, None, 3)) for _ in range(3))
        seen = resize(raw, 32)
        if working_size != 32:
            seen = resize(seen, working_size)
        entry = keras.Model(raw, seen, name="entry")
        x = keras.layers.Rescaling(1 / 128)(inside)
        x = keras.layers.Conv2D(8, 5, strides=2, activation="relu")(x)
        x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        network = keras.Model(inside, keras.layers.Dense(10, activation="softmax")(x), name="network")
        model = keras.Model(pixels, network(entry(pixels)), name=name)
        draw = np.random.default_rng(seed)
        model.set_weights([draw.normal(0, 0.3, w.shape) for w in model.get_weights()])
        path = folder / f"{name}.keras"
        model.save(path)
        content = path.read_bytes()
        card = {
            "file": path.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "test": {"accuracy": 0.9512, "interval": [0.9468, 0.9553]},
            "unlike": {"threshold": 0.5},
        }
        (folder / f"{name}.json").write_text(json.dumps(card))
    return folder


def blocks(height, width, seed=0):
    """A picture of coarse random patches, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
