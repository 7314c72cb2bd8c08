"""Mutated pictures of every format: the reader gives pixels or a `PictureError` of one line, nothing else.

    FUZZ_CASES=10000 pytest tests/test_fuzz_pictures.py

A case is a function of its number alone, which a failure names.
"""

import io
import os

import numpy as np
import pytest
from picture_models import blocks
from PIL import Image

from cifar_compare.pictures import FORMATS, MAX_PIXELS, PictureError, read_picture

CASES = int(os.environ.get("FUZZ_CASES", "400"))


def _seeds():
    """Real files of every format and many of their variants, as bytes."""
    rgb = Image.fromarray(blocks(24, 40))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    palette = rgb.quantize(16)
    deep = Image.fromarray((np.arange(24 * 40, dtype=np.uint16) * 68).reshape(24, 40))
    floating = Image.fromarray(np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    second, frames = Image.fromarray(blocks(24, 40, 1)), "two frames"
    variants = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "MPO", frames),
        (rgb, "PNG", {"exif": exif}),
        (alpha, "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (rgb, "PNG", frames),
        (rgb, "WEBP", {"exif": exif}),
        (alpha, "WEBP", {"lossless": True}),
        (rgb, "WEBP", frames),
        (palette, "GIF", {"transparency": 3}),
        (rgb, "GIF", frames),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (alpha, "BMP", {}),
        (rgb, "TIFF", {"exif": exif}),
        (rgb, "TIFF", frames),
        (deep, "TIFF", {}),
        (floating, "TIFF", {}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        *((rgb, "TIFF", {"compression": each}) for each in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    ]
    if "AVIF" in FORMATS:
        variants += [(rgb, "AVIF", {"exif": exif}), (alpha, "AVIF", {}), (rgb, "AVIF", frames)]
    files = []
    for image, form, options in variants:
        file = io.BytesIO()
        # Copies, because saving as JPEG leaves its settings on an image.
        more = {"save_all": True, "append_images": [second.copy()]} if options is frames else options
        image.copy().save(file, form, **more)
        files.append(file.getvalue())
    return files


def _mutate(content, other, draw):
    content = bytearray(content)
    for _ in range(min(4, draw.geometric(0.6))):
        # The headers, at the front and in a TIFF also at the end, decide most.
        reach = len(content) if draw.random() < 0.5 else min(len(content), 64)
        place = int(draw.integers(reach)) if draw.random() < 0.8 else len(content) - 1 - int(draw.integers(reach))
        length = int(draw.integers(1, 9))
        match draw.integers(7):
            case 0:
                content[place] ^= 1 << int(draw.integers(8))
            case 1:
                content[place : place + length] = draw.bytes(length)
            case 2:
                edge = draw.choice([0, 1, 0x7F, 0x80, 0xFF])
                content[place : place + length] = bytes([edge]) * length
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length] * int(draw.integers(1, 20))
            case 5:
                del content[max(place, 1) :]
            case 6:
                start = int(draw.integers(len(other)))
                content[place : place + 8 * length] = other[start : start + 8 * length]
        if not content:
            break
    return bytes(content)


@pytest.mark.filterwarnings("error")
def test_mutated_pictures_give_pixels_or_a_picture_error(tmp_path, capfd):
    seeds, path = _seeds(), tmp_path / "case"
    read = 0
    for case in range(CASES):
        draw = np.random.default_rng(case)
        path.write_bytes(_mutate(seeds[case % len(seeds)], seeds[draw.integers(len(seeds))], draw))
        refusal = None
        try:
            pixels = read_picture(path)
        except PictureError as error:
            refusal = str(error)
        except BaseException as error:
            pytest.fail(f"case {case} raised {error!r}")
        if refusal:
            assert refusal.isprintable(), f"case {case}"
            continue
        assert pixels.dtype == np.uint8, f"case {case}"
        assert pixels.shape[2:] == (3,), f"case {case}"
        assert 0 < pixels.size <= 3 * MAX_PIXELS, f"case {case}"
        read += 1
    assert 0 < read < CASES
    with capfd.disabled():
        print(f"\n{CASES} mutated pictures: {read} read, {CASES - read} refused")
