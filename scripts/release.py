"""Release models: train them, train their recipes with further seeds, measure them.

    python scripts/release.py train NAME ...        train by the recipe, calibrate, write file and card
    python scripts/release.py seeds NAME SEED ...   train the same recipe with further seeds, and note them on the card
    KERAS_BACKEND=jax python scripts/release.py train NAME --gpu     the same by the longer recipe for one GPU; so seeds
    python scripts/release.py measure [NAME ...]    write the card's figures and the recorded answers to the test split;
                                                    without a name, of each model that lacks them

Needs CIFAR-10. Trainings go on where they were interrupted. Only `measure` looks at the test split: trainings and
choices are over when it runs. Files and cards are written in one step.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import platform
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from PIL import Image
from scipy.special import softmax
from sklearn.datasets import load_digits

from cifar_compare.artefacts import SHIPPED, verify
from cifar_compare.data import digests
from cifar_compare.evaluation import proportion_interval
from cifar_compare.models import IMAGE_SIZE, resize
from cifar_compare.pictures import read_picture
from cifar_compare.recipes import describe
from cifar_compare.roles import input_size, multiply_adds, parts
from cifar_compare.study.conditions import FIRST
from cifar_compare.system import path_from, write, write_json
from cifar_compare.training import batches, measure_statistics

# Released models that go on from another.
STARTS = {"custom_cnn_robust": "custom_cnn", "mobilenet_v2_robust": "mobilenet_v2"}
MODELS = Path(__file__).resolve().parents[1] / "models"
# Weight files that may stand in for the one that Keras downloads, by SHA-256.
STAND_INS = {
    "c940d711b5fe256b787769cd6f66c05ce4790b03d13599b219dc36c2232f93df": (
        "ImageNet weights of Google's MobileNetV2 1.0 224, int8 per channel (google-coral/test_data, "
        "tf2_mobilenet_v2_1.0_224_ptq.tflite, Apache-2.0), turned back into float32, with BatchNorm statistics "
        "of 1,024 CIFAR-10 training images at 128 px; not the float32 file that Keras downloads"
    ),
}
# Those that scikit-image carries in its package, so that nothing is downloaded: without `chelsea`, which is a cat,
# and without what no ordinary camera takes, such as micrographs, retinas and the moon.
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
)
TILE = 128  # px
# A robust model is a weighted mean of weights from before and after its training: shares of the latter that are tried,
# and how much accuracy on clean validation images they may cost.
SHARES, PRICE = (0.3, 0.5, 0.7, 1.0), 0.005
SEVERITY = 3  # of the damage that the shares are tried on


def train(name, data, runs, gpu=False):
    """Train a model (or resume, or find it finished), calibrate it, and write the file and its card."""
    recipe, path = recipe_of(name, gpu), MODELS / f"{name}.json"
    model = new_model(recipe.name, recipe.seed)
    history = cc.train(model, data, recipe, Path(runs) / f"{recipe.name}-seed{recipe.seed}")
    temperature, tried = cc.calibrate(model, data.validation), None
    if name in STARTS:
        tried = average(model, cc.load_model(STARTS[name]), data, recipe)
        temperature = cc.calibrate(model, data.validation)
    # Each model that was measured and is replaced was a look at the test split.
    replaced = json.loads(path.read_text()) if path.exists() else {}
    earlier = replaced.get("earlier_test_accuracies", [])
    if "test" in replaced and (replaced["history"], replaced.get("shares")) != (history, tried):
        earlier = [*earlier, replaced["test"]["accuracy"]]
    MODELS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        write(MODELS / f"{name}.keras", Path(folder, "model.keras").read_bytes())
    card = {
        "name": name,
        **file_entry(MODELS / f"{name}.keras"),
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "input_size": input_size(model),
        "recipe": describe(recipe),
        "data_fingerprint": data.fingerprint,
        "started_from": file_entry(MODELS / f"{STARTS[name]}.keras") if name in STARTS else None,
        "pretrained_weights": pretrained_weights() if name.startswith("mobilenet_v2") else None,
        "training_seconds": sum(row["seconds"] for row in history),
        "hardware": "; then ".join(dict.fromkeys(row["hardware"] for row in history if "hardware" in row)),
        "versions": {
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            **{package: version(package) for package in ("keras", "tensorflow", "numpy")},
        },
        "temperature": temperature,
        "earlier_test_accuracies": earlier,
        "history": history,
    }
    if tried:
        card["shares"] = tried
    if "seeds" in replaced and replaced["recipe"] == card["recipe"]:
        card["seeds"] = replaced["seeds"]
    write_json(path, card)


def average(model, start, data, recipe):
    """Set a trained model to a weighted mean of its weights and those that it started from; returns what was tried.

    Such a mean keeps most of what the start can do on clean images, and most of what the training taught (Wortsman et
    al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903). The training's share is the largest of SHARES
    that costs less than PRICE on clean validation images.
    """
    ends, clean = (start.get_weights(), model.get_weights()), data.validation
    damaged = [cc.study.degrade.corrupt(clean.images[:1000], name, SEVERITY) for name in FIRST]
    some = cc.few_images.part_of(data.train, slice(0, 10_000))  # enough for the statistics

    def take(share):
        model.set_weights([(1 - share) * a + share * b for a, b in zip(*ends, strict=True)])
        measure_statistics(model, parts(model)[1], batches(some, recipe))

    tried = []
    for share in SHARES:
        take(share)
        held = [cc.evaluate(model, (images, clean.labels[:1000])).accuracy for images in damaged]
        accuracies = {"validation": cc.evaluate(model, clean).accuracy, "damaged_validation": float(np.mean(held))}
        tried.append({"share": share, **accuracies})
        print(tried[-1])
    least = cc.evaluate(start, clean).accuracy - PRICE
    chosen = max((row["share"] for row in tried if row["validation"] > least), default=min(SHARES))
    take(chosen)
    return {"chosen": chosen, "tried": tried}


def recipe_of(name, gpu=False):
    """The recipe that a model is trained by, on two cores or on a GPU."""
    if gpu and f"{name}_gpu" not in cc.RECIPES:
        raise SystemExit(f"{name} has no recipe for a GPU; leave out --gpu")
    return cc.RECIPES[f"{name}_gpu" if gpu else name]


def new_model(recipe, seed):
    """The model that a training by the recipe of a name begins with."""
    if recipe in STARTS:
        return cc.load_model(STARTS[recipe])
    gpu = recipe.endswith("_gpu")
    if recipe.startswith("custom_cnn"):
        return cc.build_custom_cnn(seed, whitened=not gpu)
    return cc.build_mobilenet_v2(seed=seed, frozen_norms=not gpu)


def pretrained_weights():
    """Where the weights came from that MobileNetV2's training started from."""
    if not (path := path_from("MOBILENET_V2_WEIGHTS")):
        return "ImageNet weights of keras.applications.MobileNetV2"
    digest = file_entry(path)["sha256"]
    return STAND_INS.get(digest, f"a local file of ImageNet weights, SHA-256 {digest}")


def file_entry(path):
    """Name, size and SHA-256 of a file, as the cards carry them."""
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def add_seed(name, seed, data, runs, gpu=False):
    """Train with one more seed, measure on the validation split, and put the row onto the card.

    The seed decides the initial weights, the order of the images and the augmentation. Its earlier row is replaced.
    """
    path, recipe = MODELS / f"{name}.json", recipe_of(name, gpu)
    if seed == recipe.seed:
        raise SystemExit(f"seed {seed} is the released one; give others")
    if json.loads(path.read_text())["recipe"] != describe(recipe):
        raise SystemExit(f"{path} tells of another recipe; run `python scripts/release.py train {name}` first")
    model = new_model(recipe.name, seed)
    history = cc.train(model, data, dataclasses.replace(recipe, seed=seed), Path(runs) / f"{recipe.name}-seed{seed}")
    row = {
        "seed": seed,
        "training_accuracy": history[-1]["accuracy"],
        "validation_accuracy": cc.evaluate(model, data.validation).accuracy,
        "seconds": sum(epoch["seconds"] for epoch in history),
        "hardware": history[-1]["hardware"],
        "history": history,
    }
    card = json.loads(path.read_text())  # anew, because hours have passed
    others = [other for other in card.get("seeds", []) if other["seed"] != seed]
    write_json(path, card | {"seeds": sorted([*others, row], key=lambda other: other["seed"])})
    return row


def is_measured(name):
    """Whether the card and the recorded answers of a model are there, and tell of its file as it is."""
    path = MODELS / f"{name}.keras"
    try:
        verify(name, cc.load_card(path))
        return "test" in cc.load_card(path) and bool(cc.load_predictions(path))
    except cc.ArtefactError:
        return False


def measure(name, data):
    """Write the figures of one model onto its card, and its answers to the test images beside it."""
    path, file = MODELS / f"{name}.json", MODELS / f"{name}.keras"
    predictions, answers = MODELS / f"{name}.test_predictions.npz", io.BytesIO()
    model, entry = keras.saving.load_model(file, compile=False), file_entry(file)
    validation, test = (cc.evaluate(model, split, verbose=True) for split in (data.validation, data.test))
    threshold = float(np.quantile(validation.probabilities.max(axis=1), 0.05))
    measured = {
        "preprocessing_loss": preprocessing_loss(model, data.validation),
        "out_of_distribution": {
            "score": "maximum probability (Hendrycks & Gimpel 2017, arXiv:1610.02136)",
            "threshold": threshold,
            "false_alarms": 0.05,
            "caught": share_below(model, threshold),
        },
    }
    np.savez_compressed(
        answers,
        probabilities=test.probabilities,
        labels=test.labels.astype(np.uint8),
        digests=digests(data.test.images),
        model_sha256=entry["sha256"],
    )
    write(predictions, answers.getvalue())
    card = json.loads(path.read_text()) | entry
    both = {"validation": figures(validation, card["temperature"]), "test": figures(test, card["temperature"])}
    write_json(path, card | both | measured | {"test_predictions": file_entry(predictions)})
    print(f"{name}: {test}")


def figures(result, temperature):
    """A result as the card carries it, with the calibration error that the temperature removed."""
    logits = np.log(np.maximum(result.probabilities, np.finfo(np.float32).tiny))
    before = cc.score(softmax(logits * temperature, axis=1), result.labels)
    told = {"n": len(result.labels), "accuracy": result.accuracy, "interval": list(result.interval)}
    for figure in ("nll", "ece"):
        told |= {figure: getattr(result, figure), f"{figure}_before_temperature": getattr(before, figure)}
    return told


def preprocessing_loss(model, split, count=50):
    """What it costs to shrink 1080 px copies (nearest) back to 32 px, by either method, on `count` images a class."""
    chosen = np.concatenate([np.flatnonzero(split.labels == label)[:count] for label in range(len(split.classes))])
    images, labels = split.images[chosen], split.labels[chosen]
    native = model.predict_on_batch(images).argmax(axis=1)
    measured = {"n": len(images), "native_accuracy": float((native == labels).mean())}
    for method in ("bicubic", "bilinear"):
        enlarged = (Image.fromarray(image).resize((1080, 1080), Image.Resampling.NEAREST) for image in images)
        shrunk = (resize(np.asarray(each, "float32")[None], IMAGE_SIZE, interpolation=method) for each in enlarged)
        pixels = np.concatenate([keras.ops.convert_to_numpy(each) for each in shrunk])
        answers = model.predict_on_batch(pixels).argmax(axis=1)
        measured[method] = {
            "accuracy": float((answers == labels).mean()),
            "answers_changed": int((answers != native).sum()),
            "psnr_db": float(10 * np.log10(255**2 / np.mean((pixels - images.astype("float32")) ** 2))),
        }
    return measured


def out_of_distribution():
    """Pictures of none of the ten classes, by kind: tiles of photographs, and handwritten digits."""
    tiles = []
    for file in PHOTOGRAPHS:
        picture = read_picture(files("skimage.data") / file)
        corners = np.ndindex(picture.shape[0] // TILE, picture.shape[1] // TILE)
        tiles += [picture[TILE * i :, TILE * j :][:TILE, :TILE] for i, j in corners]
    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return {"photograph_tiles": np.stack(tiles), "digits": np.stack([grey] * 3, axis=-1)}


def share_below(model, threshold):
    """The share of out-of-distribution pictures that the threshold catches; intervals take tiles as independent."""
    measured = {}
    for kind, pictures in out_of_distribution().items():
        below, n = sum(answer.probability < threshold for answer in cc.predict(model, pictures)), len(pictures)
        measured[kind] = {"n": n, "share": below / n, "interval": list(proportion_interval(below, n))}
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs", help="folder of the checkpoints (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    trained, seeds = commands.add_parser("train"), commands.add_parser("seeds")
    trained.add_argument("names", nargs="+", choices=SHIPPED)
    seeds.add_argument("names", nargs=1, choices=SHIPPED, metavar="NAME")
    seeds.add_argument("seeds", nargs="+", type=int, metavar="SEED")
    for command in (trained, seeds):
        command.add_argument("--gpu", action="store_true", help="by the longer recipe for one GPU")
    commands.add_parser("measure").add_argument("names", nargs="*", choices=[[], *SHIPPED], metavar="NAME")
    given = parser.parse_args()
    if given.command == "measure":
        given.names = given.names or [name for name in SHIPPED if not is_measured(name)]
        told = f"{', '.join(given.names)}, some 3 min each on two cores" if given.names else "nothing, all is there"
        print(f"measuring {told}")
    data = cc.load_cifar10() if given.names else None
    for name in given.names:
        if given.command == "train":
            train(name, data, given.runs, given.gpu)
        elif given.command == "measure":
            measure(name, data)
        else:
            for seed in given.seeds:
                print(add_seed(name, seed, data, given.runs, given.gpu))


if __name__ == "__main__":
    main()
