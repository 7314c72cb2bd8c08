"""Fill results/trucks.json: what the models say of one lorry, seen from 20 sides at 30×30 pixels.

    python scripts/trucks.py       a few minutes; needs no data set

The lorry is that of test_images/render.py. A seed draws where camera and sun stand; no view is left out. Each picture
is enlarged to 1080×1080 in sharp blocks, as test_images/truck_9_sample.png is, and reaches the network by each route.
"""

import importlib.util
import json
import math

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from published import trained
from readme import ROOT

from cifar_compare.artefacts import SHIPPED
from cifar_compare.system import write_json

TABLE, VIEWS = ROOT / "results" / "trucks.json", 20
TRUCK = cc.CLASSES.index("truck")


def renderer():
    """test_images/render.py as a module."""
    spec = importlib.util.spec_from_file_location("renderer", ROOT / "test_images" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen_from(scene, seed):
    """The scene with camera and sun where the seed puts them: in front of the road's far side, above the ground."""
    rng = np.random.default_rng(seed)
    around, height, distance = math.radians(rng.uniform(10, 170)), rng.uniform(1.2, 5.0), rng.uniform(12.5, 17.0)
    sun = math.radians(rng.uniform(20, 160)), rng.uniform(0.4, 1.2)
    eye = distance * math.cos(around), height, distance * math.sin(around)
    camera = eye, (0, 1.75, 0), scene["camera"][2]
    return scene | {"camera": camera, "sun": (math.cos(sun[0]), sun[1], math.sin(sun[0]))}


def pictures():
    """The trucks, uint8 (VIEWS, 30, 30, 3)."""
    module = renderer()
    return np.stack([module.shrunk(seen_from(module.lorry(), seed), 30, 30, 8) for seed in range(VIEWS)])


def answers(model, trucks):
    """The class and the probability of every answer, by route."""
    network, routes = cc.study.routes(model)
    enlarged, told = trucks.repeat(36, axis=1).repeat(36, axis=2), {}
    for route, into in routes.items():
        seen = [into(truck[None].astype("float32")) for truck in enlarged]
        probabilities = keras.ops.convert_to_numpy(network(keras.ops.concatenate(seen)))
        classes = probabilities.argmax(axis=1)
        told[route] = {
            "right": int((classes == TRUCK).sum()),
            "answers": [cc.CLASSES[i] for i in classes],
            "probabilities": [round(float(each), 4) for each in probabilities.max(axis=1)],
        }
    return told


def main():
    known = json.loads(TABLE.read_text()) if TABLE.exists() else {"model_sha256": {}}
    networks = {name: (name, cc.load_card(name)["sha256"]) for name in SHIPPED} | trained()
    hashes, told, trucks = {}, {}, None
    for name, (place, sha256) in networks.items():
        if known["model_sha256"].get(name) == sha256:
            told[name] = known["models"][name]
        elif place:
            print(f"{TABLE.name}: measuring {name}, about a minute")
            trucks = pictures() if trucks is None else trucks
            told[name] = answers(cc.load_model(place), trucks)
        else:
            continue  # a published network that was trained elsewhere
        hashes[name] = sha256
    if hashes == known["model_sha256"]:
        print(f"{TABLE.name} is of these models")
    write_json(TABLE, {"views": VIEWS, "model_sha256": hashes, "models": told})


if __name__ == "__main__":
    main()
