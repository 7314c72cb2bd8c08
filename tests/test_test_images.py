import json
from pathlib import Path

import numpy as np
import pytest
import trucks
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_IMAGES = REPOSITORY / "test_images"


@pytest.fixture(scope="module")
def renderer():
    return trucks.renderer()


@pytest.mark.parametrize(
    ("name", "form", "size"),
    [
        ("airplane_test.jpg", "JPEG", (640, 480)),
        ("cat_test.jpg", "JPEG", (576, 640)),
        ("truck_9_sample.png", "PNG", (1080, 1080)),
    ],
)
def test_committed_pictures_have_their_form(name, form, size):
    path = TEST_IMAGES / name
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == (form, size, "RGB")


@pytest.mark.parametrize("shows", ["cat", "truck"])
@pytest.mark.parametrize("model", ["custom_cnn", "mobilenet_v2"])
def test_the_docs_show_what_the_shipped_models_answer(model, shows):
    path = TEST_IMAGES / f"output-{model}-{shows}.png"
    card = json.loads((REPOSITORY / "models" / f"{model}.json").read_text())
    with Image.open(path) as image:
        assert image.info["model_sha256"] == card["sha256"], (
            "run notebooks/05_your_own_images.ipynb, which draws it anew"
        )
    assert f"(../test_images/{path.name})" in (REPOSITORY / "docs" / "usage.md").read_text(encoding="utf-8")


def test_truck_is_thirty_by_thirty_blocks():
    pixels = np.array(Image.open(TEST_IMAGES / "truck_9_sample.png"))
    content = pixels[::36, ::36]
    assert content.shape == (30, 30, 3)
    np.testing.assert_array_equal(pixels, content.repeat(36, axis=0).repeat(36, axis=1))
    assert len(np.unique(content.reshape(-1, 3), axis=0)) > 300


def test_the_script_makes_the_committed_truck(renderer):
    committed = np.array(Image.open(TEST_IMAGES / "truck_9_sample.png"))[::36, ::36]
    rendered = renderer.shrunk(renderer.lorry(), 30, 30, 8)
    assert np.abs(rendered.astype(int) - committed).max() <= 2  # other processors may round otherwise


@pytest.mark.parametrize(
    ("name", "scene", "width", "height"), [("airplane", "airliner", 80, 60), ("cat", "cat", 72, 80)]
)
def test_the_script_makes_the_committed_pictures(renderer, name, scene, width, height):
    first = renderer.render(getattr(renderer, scene)(), width, height)
    np.testing.assert_array_equal(renderer.render(getattr(renderer, scene)(), width, height), first)
    small = Image.open(TEST_IMAGES / f"{name}_test.jpg").resize((width, height), Image.Resampling.BOX)
    # One ray a pixel against many: edges differ, the rest does not.
    assert np.median(np.abs(first.astype(int) - np.array(small))) <= 4


def test_the_views_of_the_truck_are_those_of_their_seeds(renderer):
    first, again, other = (trucks.seen_from(renderer.lorry(), seed) for seed in (0, 0, 1))
    assert first["camera"] == again["camera"] != other["camera"]
    eye, *_ = first["camera"]
    assert eye[1] > 1  # above the road
    assert first["sun"] == again["sun"] != other["sun"]
