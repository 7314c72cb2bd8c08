import io
import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from picture_models import blocks
from PIL import Image, features

from cifar_compare import pictures
from cifar_compare.data import make_toy_data
from cifar_compare.pictures import PictureError, list_pictures, read_batches, read_picture
from cifar_compare.system import printable

PIXELS = blocks(40, 56)
AVIF = pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="Pillow without AVIF")


def saved(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return path


def reason(path):
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert text.isprintable()
    name = printable(path, 120) if isinstance(path, str | os.PathLike) else "picture 0"
    assert text.startswith(f"{name}: ")
    return text.removeprefix(f"{name}: ")


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
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not convert the YCbCr TIFF that it writes back to the same colours")
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
        "page.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is EPS, which is not read here"),
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


def told(given):
    """The reason why each picture cannot be read, None where it can."""
    reasons = []
    for _, read in list_pictures(given):
        try:
            reasons.append(read() is None)
        except PictureError as error:
            reasons.append(str(error).partition(": ")[2])
    return [reason or None for reason in reasons]


UNREAD = "heic HEIF jxl jp2 svg psd cr2 CR3 nef arw dng raf orf rw2 ico ppm pgm tga eps qoi exr dds"


@pytest.mark.parametrize("suffix", UNREAD.split())
def test_every_well_known_picture_in_a_folder_is_answered_or_told(tmp_path, suffix):
    saved(tmp_path, "a.jpg", Image.fromarray(PIXELS))
    (tmp_path / f"b.{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert told(tmp_path) == [None, f"is {suffix.upper()}, which is not read here: save it as PNG or JPEG"]


def test_a_raw_photograph_is_not_answered_by_its_thumbnail(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.nef", "TIFF")
    assert told(tmp_path) == ["is NEF, which is not read here: save it as PNG or JPEG"]


def test_a_jpeg_of_another_name_is_read_all_the_same(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.heic", "JPEG")
    assert told(tmp_path) == [None]


@AVIF
def test_avif_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = Image.fromarray(PIXELS).resize((56, 40), Image.Resampling.BILINEAR)
    read = read_picture(saved(tmp_path, "a.avif", smooth, quality=95, subsampling="4:4:4", exif=exif))
    assert np.abs(read.astype(int) - np.array(smooth).transpose(1, 0, 2)[:, ::-1]).mean() < 4
    content = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(content[: -len(content) // 4])
    assert "cut off" in reason(tmp_path / "b.avif")


def test_avif_is_told_where_pillow_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_AVIF", ())
    monkeypatch.setattr(pictures, "FORMATS", ("JPEG", "PNG"))
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(100))
    assert told(tmp_path) == ["is AVIF, which is not read here: save it as PNG or JPEG"]


def test_the_content_of_a_file_is_a_picture(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    content = path.read_bytes()
    written = io.BytesIO()
    written.write(content)  # its position is the end, as after Image.save
    with open(path, "rb") as opened_file:
        for given in (content, bytearray(content), memoryview(content), written, opened_file):
            np.testing.assert_array_equal(read_picture(given), PIXELS)
        assert [name for name, _ in list_pictures([opened_file, content, written])] == [
            str(path),
            "picture 0",
            "picture 1",
        ]
    assert reason(b"") == "is empty"
    assert "known format" in reason(content[1:])
    with pytest.raises(PictureError, match="closed file"):
        read_picture(opened_file)
    assert reason(io.StringIO("text")) == "gives str, expected bytes: open the file in mode 'rb'"


def test_no_more_of_a_stream_is_read_than_a_picture_may_have(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    asked = []
    endless = SimpleNamespace(read=lambda count: asked.append(count) or bytes(count))
    assert reason(endless) == "has more than 1,000 bytes, which is the limit"
    assert asked == [1001]
    assert reason(bytes(1001)) == "has more than 1,000 bytes, which is the limit"


@pytest.mark.parametrize("error", [EOFError("it ended early"), RuntimeError("it ended early")])
def test_a_stream_that_fails_is_told(error):
    def read(count):
        raise error

    assert reason(SimpleNamespace(read=read)) == "cannot be read (it ended early)"


class Column:
    """What a pandas Series of paths is to us: an array of objects once it is asked for one."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


def test_arrays_and_columns_of_paths_are_lists_of_paths(tmp_path):
    paths = [str(saved(tmp_path, name, Image.fromarray(PIXELS))) for name in ("b.png", "a.png")]
    strings = np.array(paths, dtype=np.dtypes.StringDType())
    for given in (np.array(paths), np.array(paths, "S"), np.array(paths, object), strings, Column(paths)):
        assert [name for name, _ in list_pictures(given)] == paths
        assert told(given) == [None, None]
    assert told(np.array(paths[0])) == [None]
    assert told(Column([paths[0], None, float("nan")]))[1:] == [
        f"is a {kind}, expected a path, the bytes of a picture file, an array (height, width, 3) or a PIL image"
        for kind in ("NoneType", "float")
    ]


def test_a_column_of_pandas_is_a_list_of_paths(tmp_path):
    pandas = pytest.importorskip("pandas")
    paths = [str(saved(tmp_path, name, Image.fromarray(PIXELS))) for name in ("b.png", "a.png")]
    assert [name for name, _ in list_pictures(pandas.Series(paths))] == paths
    assert told(pandas.Series(paths)) == [None, None]


def test_what_holds_pictures_is_refused_with_a_hint():
    (reason,) = told({"cat": PIXELS})
    assert reason.startswith("is a dict, expected a path")
    assert reason.endswith("give its values, list(pictures.values())")
    (reason,) = told(make_toy_data(train=10, validation=10, test=10).test)
    assert reason.endswith(": give its images")


def test_an_array_that_numpy_cannot_have_is_refused():
    class OnAnotherDevice:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    assert "cuda:0 device type" in told(OnAnotherDevice())[0]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS[..., 0], r"uint8 \(40, 56\), expected RGB pixels.*three times"),
        (PIXELS[..., :1], "expected RGB pixels.*three times"),
        (np.zeros((1, 5, 5, 1), np.uint8), "expected RGB pixels.*three times"),
        (np.zeros((2, 2, 4), np.uint8), "expected RGB pixels.*fourth channel"),
        (PIXELS.transpose(2, 0, 1), "move the channels to the end"),
        (PIXELS.transpose(2, 0, 1)[None], "move the channels to the end"),
        (np.zeros((0, 5, 3), np.uint8), "expected RGB pixels"),
        (PIXELS.astype(object), "expected RGB pixels"),
        (PIXELS.astype(complex), "expected RGB pixels"),
        (PIXELS > 9, "expected RGB pixels"),
        (PIXELS / 255, "multiply by 255"),
        (np.stack([PIXELS, PIXELS]) // 128, "keep the pixels as they were stored"),
        (PIXELS - 300.0, "expected 0 to 255"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (PIXELS.astype(int) * 2, "expected 0 to 255"),
    ],
)
def test_arrays_that_are_no_pixels(array, expected):
    read = next(list_pictures(array))[1]
    with pytest.raises(PictureError, match=f"picture 0: .*{expected}"):
        read()


def test_a_picture_without_pixels_is_refused():
    assert told(Image.new("RGB", (0, 0))) == ["has no pixels"]


def test_long_names_are_cut_in_messages(tmp_path):
    for given in ("x" * 10_000_000, "a/" * 500 + "b.png", "\n" * 5000):
        with pytest.raises(PictureError) as caught:
            read_picture(given)
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


def test_home_is_expanded_unless_there_is_a_file_of_that_name(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    saved(home, "a.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_picture("~/a.png"), PIXELS)
    assert [name for name, _ in list_pictures(["~", "~/a.png"])] == [str(home / "a.png")] * 2
    (here / "~").mkdir()
    saved(here / "~", "a.png", Image.fromarray(255 - PIXELS))
    np.testing.assert_array_equal(read_picture("~/a.png"), 255 - PIXELS)
