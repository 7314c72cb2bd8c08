import io
import logging
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from picture_models import blocks, save_tiny_models
from PIL import Image

import cifar_compare as cc
from cifar_compare import pictures
from cifar_compare.pictures import PictureError, evidence_map, predict, read_batches, read_picture

PIXELS = blocks(40, 56)


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def shipped(models_folder, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(models_folder))


@pytest.fixture(scope="module")
def model(models_folder):
    import keras

    return keras.saving.load_model(models_folder / "custom_cnn.keras")


def saved(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return path


def reason(path):
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(pictures.printable(path) + ": ")
    return text.removeprefix(pictures.printable(path) + ": ")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.gif", "a.webp", "a.jpg"])
def test_each_format_gives_its_pixels(tmp_path, name):
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 95, "subsampling": 0}}.get(name, {})
    read = read_picture(saved(tmp_path, name, Image.fromarray(PIXELS), **options))
    assert read.shape == PIXELS.shape
    assert read.dtype == np.uint8
    allowed = {"a.jpg": 12, "a.gif": 0}.get(name, 0)  # 35 colours fit into a GIF's palette
    assert np.abs(read.astype(int) - PIXELS).max() <= allowed


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr"])
def test_modes_look_as_they_are_shown(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    read = read_picture(saved(tmp_path, "a.tiff" if mode in ("PA", "CMYK", "YCbCr") else "a.png", image))
    np.testing.assert_allclose(read, np.array(image.convert("RGB")), atol=2)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.zeros((40, 56), np.uint8)
    alpha[:, 28:] = 255
    see_through = Image.fromarray(np.dstack([PIXELS, alpha]))
    palette = Image.fromarray(PIXELS).quantize(64)
    palette.info["transparency"] = palette.getpixel((0, 0))
    keyed = Image.fromarray(PIXELS)
    keyed.info["transparency"] = tuple(int(v) for v in PIXELS[0, 0])
    for name, image in {"rgba.png": see_through, "rgba.webp": see_through}.items():
        read = read_picture(saved(tmp_path, name, image, **({"lossless": True} if "webp" in name else {})))
        assert (read[:, :28] == 255).all()
        assert (read[:, 28:] == PIXELS[:, 28:]).all()
    for name, image in {"palette.png": palette, "palette.gif": palette, "keyed.png": keyed}.items():
        read = read_picture(saved(tmp_path, name, image, transparency=image.info["transparency"]))
        assert (read[:8, :8] == 255).all()
        np.testing.assert_array_equal(read[16:, 16:], np.array(image.convert("RGB"))[16:, 16:])


def test_half_transparent_is_half_white(tmp_path):
    image = Image.new("LA", (8, 8), (0, 128))
    np.testing.assert_allclose(read_picture(saved(tmp_path, "a.png", image)), 127, atol=1)


def opened(path):
    """The pixels of a picture that is given as PIL's image and not as a path."""
    with Image.open(path) as image:
        ((_, read),) = pictures.list_pictures(image)
        return read()


def test_cmyk_of_a_jpeg_is_shown_as_rgb(tmp_path):
    smooth = Image.fromarray(PIXELS).resize((56, 40), Image.Resampling.BILINEAR)
    read = read_picture(saved(tmp_path, "a.jpg", smooth.convert("CMYK"), quality=95))  # Adobe's, which is inverted
    assert np.abs(read.astype(int) - np.array(smooth)).mean() < 8


def deep_png(colour_type, values):
    """A PNG of 16 bits a channel, by hand: Pillow does not write colour of that depth."""
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_sixteen_bits_of_colour(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 4)).astype(np.uint16)
    values[..., 3] = 0
    (tmp_path / "rgb.png").write_bytes(deep_png(2, values[..., :3]))
    np.testing.assert_allclose(read_picture(tmp_path / "rgb.png"), values[..., :3] / 257, atol=1)
    (tmp_path / "clear.png").write_bytes(deep_png(6, values))
    assert (read_picture(tmp_path / "clear.png") == 255).all()


def test_a_clear_shade_of_sixteen_bits_lies_over_white(tmp_path):
    grey = np.array([[0, 1000, 60_000]] * 3, np.uint16)
    read = read_picture(saved(tmp_path, "a.png", Image.fromarray(grey), transparency=1000))
    np.testing.assert_array_equal(read[0, :, 0], [0, 255, 233])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 40 * 56).reshape(40, 56).round().astype(np.uint16)
    dark = (grey // 512).astype(np.uint16)
    for values in (grey, dark):
        expected = np.rint(values / 257)[..., None].repeat(3, axis=2)
        for name in ("a.png", "a.tiff"):
            read = read_picture(saved(tmp_path, name, Image.fromarray(values)))
            np.testing.assert_array_equal(read, expected)


def write_tiff(path, values, bits, photometric=1, big_endian=False, sample_format=1):
    """A TIFF of one uncompressed strip of grey, by hand: Pillow writes neither 12 bits nor white as zero."""
    order, raw = (">" if big_endian else "<"), values.tobytes()
    entries = [
        (256, 4, values.nbytes * 8 // bits // len(values)),
        (257, 4, len(values)),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, len(values)),
        (279, 4, len(raw)),
        (339, 3, sample_format),
    ]
    directory = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack(order + "HHI" + ("I" if kind == 4 else "HH"), tag, kind, 1, *([value, 0][: 5 - kind]))
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", 8 + len(raw))
    path.write_bytes(head + raw + directory + b"\0\0\0\0")
    return path


def test_tiff_grey_of_every_depth(tmp_path):
    path, ramp = tmp_path / "a.tiff", np.linspace(0, 1, 64).reshape(8, 8)
    expected = np.rint(ramp * 255)[..., None].repeat(3, axis=2)
    for values, settings in (
        ((ramp * 65535).round().astype("<u2"), (16, 1)),
        ((ramp * 65535).round().astype(">u2"), (16, 1, True)),
        ((65535 - (ramp * 65535).round()).astype("<u2"), (16, 0)),
        (ramp.astype("<f4"), (32, 1, False, 3)),
        ((ramp * 255).astype("<f4"), (32, 1, False, 3)),
        ((ramp * 2**32).clip(0, 2**31 - 1).astype("<i4"), (32, 1, False, 2)),
        ((ramp * (2**32 - 1)).astype("<u4"), (32, 1)),
    ):
        read = read_picture(write_tiff(path, values, *settings))
        np.testing.assert_array_equal(opened(path), read)
        assert np.abs(read.astype(int) - expected.clip(0, 128 if settings[-1] == 2 else 255)).max() <= 1
    twelve = np.array([[0x00, 0x0F, 0xFF] * 4] * 8, np.uint8)  # pairs of 0x000 and 0xfff
    assert (read_picture(write_tiff(path, twelve, 12)) == np.array([0, 255] * 4)[None, :, None]).all()
    assert "grey values" in reason(write_tiff(path, -ramp.astype("<f4") - 1, 32, 1, False, 3))
    assert "grey values" in reason(write_tiff(path, np.full((8, 8), np.nan, "<f4"), 32, 1, False, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path, orientation):
    upright = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS.transpose(1, 0, 2)[:, ::-1],
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tiff", "a.webp", "a.jpg"):
        options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 95, "subsampling": 0}}.get(name, {})
        path = saved(tmp_path, name, Image.fromarray(PIXELS), exif=exif, **options)
        read = read_picture(path)
        np.testing.assert_allclose(read, upright, atol=12 if name == "a.jpg" else 0)
        np.testing.assert_array_equal(opened(path), read)


def test_damaged_exif_does_not_matter(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    assert read_picture(path).shape == PIXELS.shape


def test_first_frame_counts(tmp_path):
    frames = [Image.fromarray(blocks(40, 56, seed)) for seed in range(3)]
    for name in ("a.gif", "a.webp", "a.tiff", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        path = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_picture(path), np.array(frames[0]))


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")


def test_hostile_files_get_one_line_each(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(PIXELS).save(whole, "PNG")
    contents = {
        "empty.png": (b"", "is empty"),
        "text.jpg": (b"not a picture at all", "known format"),
        "cut.png": (whole.getvalue()[:300], "cut off"),
        "bomb.png": (png_that_claims(60_000, 60_000), "67,108,864 pixels"),
        "just_too_big.png": (png_that_claims(9_000, 8_000), "67,108,864 pixels"),
        "program.png": (b"\x7fELF" + bytes(1000), "known format"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
    }
    for name, (content, expected) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert expected in reason(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert reason(tmp_path / "empty") == "is a folder without pictures"
    assert reason(tmp_path) == "is a folder inside a folder, which is not searched"
    assert "No such file" in reason(tmp_path / "missing\n\x1b[31m.png")
    assert "null" in reason("a\0b.png")
    os.truncate(tmp_path / "text.jpg", pictures.MAX_BYTES + 1)
    assert "the limit is" in reason(tmp_path / "text.jpg")


@pytest.mark.parametrize("tag", [273, 324, 65_000])
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_too_many_strips_is_refused_before_it_is_opened(tmp_path, order, tag, monkeypatch):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)
    (tmp_path / "a.tiff").write_bytes(head + struct.pack(order + "HHII", tag, 4, 1_000_000, 26) + bytes(4_000_000))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert reason(tmp_path / "a.tiff") == f"has a table of 1,000,000 entries (TIFF tag {tag}), the limit is 65,536"


def test_too_little_memory_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "open", refuse)
    assert reason(path) == "needs more memory than there is"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_devices_never_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe" in reason(tmp_path / "pipe.png")
    assert "device" in reason("/dev/zero")


def test_folder_without_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert reason(tmp_path) == "Permission denied"


def test_file_without_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(os, "open", refuse)  # not by chmod, which does not hold an administrator back
    assert reason(path) == "Permission denied"


def test_every_way_in_gives_the_models_own_answer(tmp_path, model):
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    expected = np.asarray(model(PIXELS[None]))[0]
    ways = {
        "path": path,
        "text": str(path),
        "array": PIXELS,
        "float": PIXELS.astype(np.float64),
        "stack": PIXELS[None],
        "image": Image.open(path),
        "folder": tmp_path,
        "list": [path],
    }
    for way, given in ways.items():
        (answer,) = predict(model, given)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5, err_msg=way)
        (named,) = predict("custom_cnn", given)
        np.testing.assert_array_equal(named.probabilities, answer.probabilities, err_msg=way)
    assert [a.picture for a in predict(model, [PIXELS, str(path), PIXELS])] == [
        "picture 0",
        str(path),
        "picture 1",
    ]


def test_mixed_sizes_keep_their_order(model):
    sizes = [(32, 32), (70, 40), (1, 9), (32, 32), (200, 300), (70, 40), (33, 32)] * 3
    given = [blocks(*size, seed) for seed, size in enumerate(sizes)]
    answers = predict(model, given, top=10, batch_size=8)
    assert len(answers) == len(given)
    for pixels, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(answer.probabilities, np.asarray(model(pixels[None]))[0], atol=1e-5)
        shown = [probability for _, probability in answer.top]
        assert shown == sorted(answer.probabilities.tolist(), reverse=True)
        assert answer.top[0] == (answer.label, answer.probability)


def test_new_sizes_are_not_traced_anew(model, caplog):
    entry = model.get_layer("entry")
    with caplog.at_level(logging.WARNING):
        predict(model, [blocks(40 + n, 90 - n) for n in range(20)], batch_size=4)
    assert entry.predict_function.experimental_get_tracing_count() <= 6  # two for each type of pixels and batch
    assert "retracing" not in caplog.text


def test_bad_pictures_raise_or_are_reported(tmp_path, model):
    good = saved(tmp_path, "good.png", Image.fromarray(PIXELS))
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "notes.txt").write_text("not tried")
    (tmp_path / ".hidden.png").write_text("not tried")
    with pytest.raises(PictureError, match=r"bad\.png: is not a picture"):
        predict(model, tmp_path)
    bad = []
    answers = predict(model, [tmp_path, None, tmp_path / "missing.png"], on_error=bad.append)
    assert [answer.picture for answer in answers] == [str(good)]
    assert ["bad.png" in str(bad[0]), "NoneType" in str(bad[1]), "missing.png" in str(bad[2])] == [True] * 3
    (tmp_path / "none").mkdir()
    with pytest.raises(PictureError, match="folder without pictures"):
        predict(model, tmp_path / "none")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS[..., 0], "expected RGB pixels"),
        (np.zeros((2, 2, 4), np.uint8), "expected RGB pixels"),
        (np.zeros((0, 5, 3), np.uint8), "expected RGB pixels"),
        (PIXELS.astype(object), "expected RGB pixels"),
        (PIXELS / 255, "multiply by 255"),
        (PIXELS - 300.0, "expected 0 to 255"),
        (np.full((4, 4, 3), np.nan), "expected 0 to 255"),
        (PIXELS.astype(int) * 2, "expected 0 to 255"),
    ],
)
def test_arrays_that_are_no_pixels(model, array, expected):
    with pytest.raises(PictureError, match=f"picture 0: .*{expected}"):
        predict(model, array)


def test_wrong_calls_say_what_was_expected(model):
    with pytest.raises(ValueError, match="top is 0"):
        predict(model, PIXELS, top=0)
    with pytest.raises(ValueError, match="layers 'entry' and 'network'"):
        predict(model.get_layer("network"), PIXELS)


def test_pictures_are_read_as_they_are_needed():
    read = []

    def listed(count, pixels):
        for number in range(count):
            yield str(number), lambda number=number: read.append(number) or pixels

    batches = read_batches(listed(10**6, PIXELS), batch_size=16)
    assert len(next(batches)) == 16
    assert len(read) == 16
    large = np.zeros((2500, 2500, 3), np.uint8)
    assert [len(batch) for batch in read_batches(listed(3, large))] == [1, 1, 1]


def test_unlike_follows_the_card(models_folder, tmp_path, monkeypatch, model):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path))
    card = (models_folder / "custom_cnn.json").read_text()
    shutil.copy(models_folder / "custom_cnn.keras", tmp_path)
    for threshold, expected in ((0.0, False), (1.1, True)):
        (tmp_path / "custom_cnn.json").write_text(card.replace('"threshold": 0.5', f'"threshold": {threshold}'))
        assert predict("custom_cnn", PIXELS)[0].unlike is expected
    assert predict(model, PIXELS)[0].unlike is None


def test_a_model_replaced_on_disk_is_loaded_anew(models_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_COMPARE_MODELS", str(tmp_path))
    answers = {}
    for name in ("custom_cnn", "mobilenet_v2"):
        shutil.copy(models_folder / f"{name}.keras", tmp_path)
        shutil.copy(models_folder / f"{name}.json", tmp_path / "custom_cnn.json")
        answers[name] = predict("custom_cnn", PIXELS)[0].probabilities
    assert not np.allclose(answers["custom_cnn"], answers["mobilenet_v2"])


@pytest.fixture(scope="module", params=["custom_cnn", "mobilenet_v2"])
def untrained(request):
    """One of the real networks with random weights, and what it makes of PIXELS: the map's features, the logits."""
    import keras

    build = {"custom_cnn": cc.build_custom_cnn, "mobilenet_v2": lambda: cc.build_mobilenet_v2(weights=None)}
    model = build[request.param]()
    network = model.get_layer("network")
    weights = network.get_layer("logits").get_weights()
    weights[1:] = [np.linspace(-1, 1, 10) for _ in weights[1:]]  # a bias, where there is one, starts as 0
    network.get_layer("logits").set_weights(weights)
    inside = keras.Model(network.inputs, [network.get_layer("pool").input, network.get_layer("logits").output])
    features, logits = inside(model.get_layer("entry")(PIXELS[None]))
    return model, weights, np.asarray(features)[0], np.asarray(logits)[0]


def test_evidence_adds_up_to_the_logit_less_its_bias(untrained):
    model, (_, *bias), features, logits = untrained
    for number, label in enumerate(cc.CLASSES):
        added = evidence_map(model, PIXELS, label)
        assert added.shape == features.shape[:2]
        assert added.dtype == np.float32
        assert added.sum() == pytest.approx(logits[number] - (bias[0][number] if bias else 0), rel=1e-4, abs=1e-5)


def test_evidence_lies_where_the_features_are(untrained):
    model, (kernel, *_), features, _ = untrained
    if model.name == "mobilenet_v2":
        expected = features @ kernel / features[..., 0].size
    else:
        at = features.reshape(-1, features.shape[-1]).argmax(axis=0)
        expected = np.zeros((features[..., 0].size, 10))
        np.add.at(expected, at, features.max(axis=(0, 1))[:, None] * kernel / 9)
        expected = expected.reshape(*features.shape[:2], 10)
    np.testing.assert_allclose(evidence_map(model, PIXELS, "dog"), expected[..., 5], rtol=1e-3, atol=1e-5)


def test_equal_maxima_share_the_evidence():
    model = cc.build_custom_cnn()
    network = model.get_layer("network")
    network.get_layer("conv3b").kernel.assign(np.zeros(network.get_layer("conv3b").kernel.shape))
    beta = network.get_layer("norm3b").beta
    beta.assign(np.linspace(0.5, 2, beta.shape[0]))  # the same features in every place
    added = evidence_map(model, PIXELS, "cat")
    assert added.size > 1
    np.testing.assert_allclose(added, added.mean(), rtol=1e-4)
    assert abs(added.sum()) > 1e-3


def test_evidence_for_the_answer_of_any_single_picture(tmp_path, untrained):
    model, *_ = untrained
    (answer,) = predict(model, PIXELS)
    expected = evidence_map(model, PIXELS, answer.label)
    np.testing.assert_array_equal(evidence_map(model, PIXELS), expected)
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(evidence_map(model, path), expected)
    with pytest.raises(ValueError, match="label is 'tiger', expected None or one of airplane, automobile"):
        evidence_map(model, PIXELS, "tiger")
    with pytest.raises(PictureError, match="No such file"):
        evidence_map(model, tmp_path / "missing.png")
