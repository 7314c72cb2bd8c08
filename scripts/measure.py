"""Measure the shipped models and write what derives from them: the cards' figures and the recorded test predictions.

    python scripts/measure.py [NAME ...]

Needs CIFAR-10. Trainings and choices are over when this runs: it is what looks at the test split.
"""

import argparse
import hashlib
import json
from importlib.resources import files
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from PIL import Image
from scipy.special import softmax
from sklearn.datasets import load_digits

from cifar_compare.artefacts import SHIPPED
from cifar_compare.data import digests
from cifar_compare.evaluation import proportion_interval
from cifar_compare.pictures import read_picture

MODELS = Path(__file__).resolve().parents[1] / "models"
# Those that scikit-image carries in its package, so that nothing is downloaded: without `chelsea`, which is a cat,
# and without what no ordinary camera takes, such as micrographs, retinas and the moon.
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
)
TILE = 128  # px


def file_entry(path):
    """File name, size and SHA-256, as the cards carry them."""
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def figures(result, temperature):
    """A result as the card carries it, with the calibration error that the temperature removed."""
    logits = np.log(np.maximum(result.probabilities, np.finfo(np.float32).tiny))
    before = cc.score(softmax(logits * temperature, axis=1), result.labels)
    return {
        "n": len(result.labels),
        "accuracy": result.accuracy,
        "interval": list(result.interval),
        "nll": result.nll,
        "nll_before_temperature": before.nll,
        "ece": result.ece,
        "ece_before_temperature": before.ece,
    }


def entry_loss(model, split, count=50):
    """What it costs to shrink 1080 px copies (nearest) back to 32 px, by either method, on `count` images a class."""
    chosen = np.concatenate([np.flatnonzero(split.labels == label)[:count] for label in range(10)])
    images, labels = split.images[chosen], split.labels[chosen]
    enlarged = (np.asarray(Image.fromarray(x).resize((1080, 1080), Image.NEAREST), "float32") for x in images)
    shrunk = {"bicubic": [], "bilinear": []}
    for picture in enlarged:
        for method, pixels in shrunk.items():
            small = keras.ops.image.resize(picture[None], (32, 32), interpolation=method, antialias=True)
            pixels.append(keras.ops.convert_to_numpy(keras.ops.clip(small, 0, 255))[0])
    native = model.predict_on_batch(images).argmax(axis=1)
    measured = {"n": len(images), "native_accuracy": float((native == labels).mean())}
    for method, pixels in shrunk.items():
        answers = model.predict_on_batch(np.stack(pixels)).argmax(axis=1)
        error = np.mean((np.stack(pixels) - images.astype("float32")) ** 2)
        measured[method] = {
            "accuracy": float((answers == labels).mean()),
            "answers_changed": int((answers != native).sum()),
            "psnr_db": float(10 * np.log10(255**2 / error)),
        }
    return measured


def strangers():
    """Pictures of none of the ten classes, by kind: tiles of photographs, and handwritten digits."""
    tiles = []
    for file in PHOTOGRAPHS:
        picture = read_picture(files("skimage.data") / file)
        corners = np.ndindex(picture.shape[0] // TILE, picture.shape[1] // TILE)
        tiles += [picture[TILE * i :, TILE * j :][:TILE, :TILE] for i, j in corners]
    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return {"photograph_tiles": np.stack(tiles), "digits": np.stack([grey] * 3, axis=-1)}


def caught(model, threshold):
    """The share of the strangers told to be unlike the ten classes; intervals take the tiles as independent."""
    measured = {}
    for kind, pictures in strangers().items():
        below = sum(answer.probability < threshold for answer in cc.predict(model, pictures))
        n = len(pictures)
        measured[kind] = {"n": n, "share": below / n, "interval": list(proportion_interval(below, n))}
    return measured


def measure(name, data):
    """Write the figures of one model into its card, and its answers to the test images beside it."""
    card_path = MODELS / f"{name}.json"
    card = json.loads(card_path.read_text()) | file_entry(MODELS / f"{name}.keras")
    model = keras.saving.load_model(MODELS / card["file"], compile=False)
    validation = cc.evaluate(model, data.validation, verbose=True)
    test = cc.evaluate(model, data.test, verbose=True)

    predictions = MODELS / f"{name}.test_predictions.npz"
    np.savez_compressed(
        predictions,
        probabilities=test.probabilities,
        labels=test.labels.astype(np.uint8),
        digests=digests(data.test.images),
        model_sha256=card["sha256"],
    )
    threshold = float(np.quantile(validation.probabilities.max(axis=1), 0.05))
    card |= {
        "validation": figures(validation, card["temperature"]),
        "test": figures(test, card["temperature"]),
        "entry_loss": entry_loss(model, data.validation),
        "unlike": {
            "score": "maximum probability (Hendrycks & Gimpel 2017, arXiv:1610.02136)",
            "threshold": threshold,
            "false_alarms": 0.05,
            "caught": caught(model, threshold),
        },
        "test_predictions": file_entry(predictions),
    }
    card_path.write_text(json.dumps(card, indent=1) + "\n")
    print(f"{name}: {test}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SHIPPED))
    given = parser.parse_args()
    cifar10 = cc.load_cifar10()
    for each in given.names:
        measure(each, cifar10)
