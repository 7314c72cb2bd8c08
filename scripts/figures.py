"""Draw the two figures of the README, each also narrow for telephones.

    python scripts/figures.py

docs/handed.png: what each network is handed of the truck, test_images/truck_9_sample.png, and what it says; below it
stand accuracies of results/low_res_study.csv, on test images that were made as coarse as the truck.
docs/few-images.png: accuracy against training images a class, of results/data_efficiency.csv.
"""

import hashlib
import textwrap

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from data_efficiency import TABLE
from PIL.PngImagePlugin import PngInfo
from readme import FEW, FIGURE, ROOT, Study, few

from cifar_compare import few_images
from cifar_compare.artefacts import NAMES
from cifar_compare.pictures import read_picture
from cifar_compare.plots import COLOURS, new_figure

TRUCK = ROOT / "test_images" / "truck_9_sample.png"
SIZE = 9  # points, the smallest text
# Heading, model, route, and a further route whose accuracy is told in brackets.
TILES = (
    ("Our CNN, as in its training: shrunk to 32×32", "custom_cnn", "preprocessing", None),
    (
        "Our MobileNetV2, as in the article: blocks straight to 224×224",
        "mobilenet_v2",
        "bypass-nearest-224",
        "bypass-nearest",
    ),
    ("Our MobileNetV2, as in its training: shrunk, then enlarged smoothly", "mobilenet_v2", "preprocessing", None),
)


def accuracy(model, route, also):
    """In words, the accuracy on test images that were made as coarse as the truck."""
    study, place = Study(), f"{model}/published/{route}"
    told = f"right on {study(f'{place}:accuracy')} of {study.rows[place]['n']:,} test images made like it"
    if also:
        size = cc.load_card(model)["input_size"]
        told += f" ({study(f'{model}/published/{also}:accuracy')} at {size}×{size}, as ours was trained)"
    return told


def handed(model, route):
    """The pixels that a network gets of the truck by one route, uint8, and its answer."""
    network, routes = cc.study.routes(cc.load_model(model))
    seen = routes[route](read_picture(TRUCK)[None].astype("float32"))
    probabilities = keras.ops.convert_to_numpy(network(seen))[0]
    pixels = np.clip(np.rint(keras.ops.convert_to_numpy(seen)[0]), 0, 255).astype(np.uint8)
    return pixels, f"says {cc.CLASSES[probabilities.argmax()]}, {100 * probabilities.max():.0f} % sure"


def draw(tiles, narrow):
    """The figure: tiles (heading, pixels, answer, accuracy) in a row, or for telephones one below the other."""
    size = {"rows": 3, "columns": 2, "width": 3.58, "height": 5.7} if narrow else {"rows": 2, "columns": 3}
    figure, axes = new_figure(**{"width": 8.3, "height": 3.15, **size})
    for (heading, pixels, answer, share), (ax, below) in zip(tiles, axes if narrow else axes.T, strict=True):
        ax.imshow(pixels, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        below.axis("off")
        colour = COLOURS[2] if "truck" in answer else COLOURS[1]
        width = 20 if narrow else 32
        lines = [textwrap.fill(text.replace(" %", "\N{NO-BREAK SPACE}%"), width) for text in (heading, share)]
        place = {"ha": "left" if narrow else "center", "transform": below.transAxes, "fontsize": SIZE}
        x = 0 if narrow else 0.5
        below.text(x, 1, lines[0], va="top", weight="bold", **place)
        below.text(x, 0.53 if narrow else 0.5, answer, va="center", color=colour, **{**place, "fontsize": SIZE + 3})
        below.text(x, 0.42 if narrow else 0.36, lines[1], va="top", **place)
    if not narrow:
        figure.get_layout_engine().set(h_pad=0.02)
        axes[0, 0].get_gridspec().set_height_ratios((1.75, 1))
    return figure


def draw_few(narrow):
    """The figure about few images, with text that can be read where it is shown."""
    figure = few_images.plot(few_images.read(TABLE))
    if narrow:
        figure.set_size_inches(4.4, 4.8)
        figure.legends[0].remove()
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def told_few():
    """The accuracies in words, for who does not see the figure."""
    rows = few_images.read(TABLE)
    sizes = sorted({row["images_a_class"] for row in rows})
    told = "Accuracy on the test images by the number of training images a class."
    for size in sizes:
        arms = [
            arm for arm in few_images.ARMS if any((row["images_a_class"], row["arm"]) == (size, arm) for row in rows)
        ]
        told += f" {size:,}: {', '.join(f'{few_images.ARMS[arm]} {few(arm, size)}' for arm in arms)}."
    return told


def save(figures, path, **told):
    """Save a wide figure and a narrow one, with texts beside the pixels."""
    info = PngInfo()
    for name, text in told.items():
        info.add_itxt(name, text)
    for figure, stem in zip(figures, (path.stem, f"{path.stem}-narrow"), strict=True):
        figure.savefig(path.with_stem(stem), dpi=200, pil_kwargs={"pnginfo": info})


def main():
    tiles = [(heading, *handed(*place[:2]), accuracy(*place)) for heading, *place in TILES]
    told = " ".join(f"{heading}: {answer}; {share}." for heading, _, answer, share in tiles)
    told = f"What each network is handed of a truck of 30×30 pixels, and its answer. {told}"
    models = " ".join(cc.load_card(name)["sha256"] for name in NAMES)
    save([draw(tiles, narrow) for narrow in (False, True)], FIGURE, Description=told, models=models)
    table = hashlib.sha256(TABLE.read_bytes()).hexdigest()
    save([draw_few(narrow) for narrow in (False, True)], FEW, Description=told_few(), table=table)


if __name__ == "__main__":
    main()
