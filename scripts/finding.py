"""Draw docs/handed.png, and a narrow one for telephones: what each network is handed of the truck, and what it says.

    python scripts/finding.py

The picture is our own, test_images/truck_9_sample.png. Below it stand accuracies of results/low_res_study.csv, on test
images that were made as coarse as the truck.
"""

import textwrap

import cifar_compare as cc  # before Keras, because it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
from PIL.PngImagePlugin import PngInfo
from readme import FIGURE, ROOT, Study

from cifar_compare.pictures import read_picture
from cifar_compare.plots import COLOURS, new_figure

TRUCK = ROOT / "test_images" / "truck_9_sample.png"
NARROW = FIGURE.with_stem("handed-narrow")
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


def main():
    tiles = [(heading, *handed(*place[:2]), accuracy(*place)) for heading, *place in TILES]
    told = " ".join(f"{heading}: {answer}; {share}." for heading, _, answer, share in tiles)
    info = PngInfo()
    info.add_text("models", " ".join(cc.load_card(name)["sha256"] for name in ("custom_cnn", "mobilenet_v2")))
    info.add_itxt("Description", f"What each network is handed of a truck of 30×30 pixels, and its answer. {told}")
    for path in (FIGURE, NARROW):
        draw(tiles, path == NARROW).savefig(path, dpi=200, pil_kwargs={"pnginfo": info})


if __name__ == "__main__":
    main()
