import io
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cifar_compare as cc
from cifar_compare.study.degrade import METHODS, SEVERITIES, content, corrupt, deliver


@pytest.fixture(scope="module")
def images():
    return cc.make_toy_data(train=10, validation=10, test=12).test.images


def every_corruption(test):
    return pytest.mark.parametrize("name", SEVERITIES)(test)


def roughness(images):
    return np.abs(np.diff(images.astype(float), axis=2)).mean()


@pytest.mark.parametrize("method", METHODS)
def test_delivery_enlarges_as_named(images, method):
    large = deliver(images, 96, method)
    assert large.shape == (len(images), 96, 96, 3)
    assert large.dtype == np.uint8
    expected = Image.fromarray(images[3]).resize((96, 96), Image.Resampling[method.upper()])
    np.testing.assert_array_equal(large[3], expected)
    if method == "nearest":
        np.testing.assert_array_equal(large, images.repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.parametrize("method", METHODS)
def test_delivery_at_the_same_size_changes_nothing(images, method):
    np.testing.assert_array_equal(deliver(images, 32, method), images)


def test_shrinking_antialiases():
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    small = deliver(stripes, 8, "bicubic")
    assert np.abs(small[:, :, 1:-1].astype(float) - 127.5).max() < 10


def test_content_loses_detail_the_more_the_smaller(images):
    np.testing.assert_array_equal(content(images, 32), images)
    lost = [np.abs(content(images, size).astype(float) - images).mean() for size in (24, 16, 12, 8)]
    assert 0 < lost[0] < lost[1] < lost[2] < lost[3]


@every_corruption
def test_corruptions_grow_with_severity(images, name):
    lost = []
    for severity in range(1, 6):
        corrupted = corrupt(images, name, severity)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == np.uint8
        lost.append(np.abs(corrupted.astype(float) - images).mean())
    assert lost[0] > 0
    assert min(lost) > 0
    # The published constants turn an image less, the more they ripple it, and blur less where they copy twice.
    if name == "glass_blur":
        assert lost[3] > lost[1]
        assert lost[4] > lost[2]
    elif name == "frost":  # brighter and darker at once: what grows is the ice's share of what one sees
        like = [np.corrcoef(corrupt(images, name, i).ravel(), images.ravel())[0, 1] for i in range(1, 6)]
        assert np.all(np.diff(like) < 0)
    elif name != "elastic_transform":
        assert np.all(np.diff(lost) >= 0)
        assert lost[-1] > lost[0]


@every_corruption
def test_severity_0_changes_nothing(images, name):
    same = corrupt(images, name, 0)
    np.testing.assert_array_equal(same, images)
    assert same is not images


@pytest.mark.parametrize("name", ["shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"])
def test_draws_differ_by_seed(images, name):
    one, same, other = (corrupt(images, name, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@every_corruption
def test_an_image_is_corrupted_alike_in_every_batch(images, name):
    whole = corrupt(images, name, 3, seed=1)
    np.testing.assert_array_equal(corrupt(images[5:7], name, 3, seed=1), whole[5:7])
    np.testing.assert_array_equal(corrupt(images[::-1], name, 3, seed=1), whole[::-1])


@every_corruption
def test_the_given_images_stay(images, name):
    before = images.copy()
    corrupt(images, name, 5)
    np.testing.assert_array_equal(images, before)


def test_noise_has_the_deviation_it_names_and_a_seed():
    grey = np.full((40, 32, 32, 3), 128, np.uint8)
    grey[:, 0, 0, 0] = np.arange(40)  # equal images would get equal noise
    one, same, other = (corrupt(grey, "gaussian_noise", 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])
    assert (one[:, 1:].astype(float) - 128).std() == pytest.approx(255 * 0.08, rel=0.01)


def test_photons_have_the_deviation_of_poisson_noise():
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    assert corrupt(grey, "shot_noise", 3).std() == pytest.approx(255 * np.sqrt(128 / 255 / 100), rel=0.03)


def test_impulses_hit_the_share_that_is_named():
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    made = corrupt(grey, "impulse_noise", 5)
    assert set(np.unique(made)) == {0, 128, 255}
    assert (made != 128).mean() == pytest.approx(0.07, abs=0.01)


def test_brightness_adds_to_the_largest_channel_and_keeps_the_hue():
    pixels = np.array([[[[100, 50, 0], [0, 0, 0]]]], np.uint8)
    assert corrupt(pixels, "brightness", 4).tolist() == [[[[151, 76, 0], [51, 51, 51]]]]


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_a_plain_image_has_nothing_to_blur_or_to_move(name):
    plain = np.full((1, 32, 32, 3), 200, np.uint8)
    np.testing.assert_array_equal(corrupt(plain, name, 5), plain)


def test_contrast_keeps_the_mean(images):
    flat = corrupt(images, "contrast", 5).astype(float)
    np.testing.assert_allclose(flat.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.5)
    np.testing.assert_allclose(flat.std(axis=(1, 2)), 0.15 * images.std(axis=(1, 2)), atol=0.5)


def test_blur_does_not_mix_images_or_channels():
    dot = np.zeros((3, 32, 32, 3), np.uint8)
    dot[1, 16, 16, 0] = 255
    blurred = corrupt(dot, "gaussian_blur", 5)
    assert blurred[1, 16, 17, 0] > 0
    assert not blurred[[0, 2]].any()
    assert not blurred[..., 1:].any()
    assert roughness(blurred) < roughness(dot)


def test_jpeg_is_pillows(images):
    file = io.BytesIO()
    Image.fromarray(images[0]).save(file, "JPEG", quality=50)
    np.testing.assert_array_equal(corrupt(images[:1], "jpeg", 4)[0], Image.open(file))


DARK = np.zeros((2, 32, 32, 3), np.uint8)
DARK[0, 3, 3] = 5


def test_dark_images_lose_content_as_others_do():
    """What is left between the two steps is darker than any set of images that is taken when it is given."""
    np.testing.assert_array_equal(content(DARK, 8), [content(DARK[:1], 8)[0], DARK[1]])


def test_one_pixel_is_an_image():
    pixel = np.full((1, 1, 1, 3), 200, np.uint8)
    np.testing.assert_array_equal(corrupt(pixel, "pixelate", 5), pixel)


def test_errors_say_what_was_given_and_expected(images):
    with pytest.raises(ValueError, match="method is 'cubic', expected one of nearest, bilinear"):
        deliver(images, 64, "cubic")
    with pytest.raises(ValueError, match="'hail' at severity 1, expected one of gaussian_noise"):
        corrupt(images, "hail", 1)
    with pytest.raises(ValueError, match="at severity 6, expected one of"):
        corrupt(images, "jpeg", 6)


@pytest.mark.parametrize("severity", [-1, 2.0, True, "3", None, [1]])
def test_a_severity_that_is_none_is_refused(images, severity):
    with pytest.raises(ValueError, match=re.escape(f"severity is {severity!r}, expected a whole number")):
        corrupt(images, "jpeg", severity)


@pytest.mark.parametrize("size", [0, -32, 64.0, (64, 64), "64", None])
def test_a_size_that_is_none_is_refused(images, size):
    for degrade in (content, lambda images, size: deliver(images, size, "bicubic")):
        with pytest.raises(ValueError, match=re.escape(f"size is {size!r}, expected a whole number")):
            degrade(images, size)


def test_more_than_200_megapixels_are_refused_before_any_work(images, monkeypatch):
    monkeypatch.setattr(Image, "fromarray", lambda *_: pytest.fail("it began to work"))
    for degrade in (content, lambda images, size: deliver(images, size, "bicubic")):
        with pytest.raises(ValueError, match=r"size is 5000, .* 300 megapixels in 12 pictures, expected at most 200: "):
            degrade(images, 5000)
    with pytest.raises(ValueError, match=r"size of condition 'x' is 20000, .* 400 megapixels in 1 pictures"):
        cc.study.Condition("x", "delivery", 1, size=20_000)
    with pytest.raises(ValueError, match=r"resolution of condition 'x' is 5000, .* in 12 pictures"):
        cc.study.Condition("x", "delivery", 12, resolution=5000).make(images)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_none_is_refused(images, seed):
    with pytest.raises(ValueError, match=f"seed is {seed!r}, expected a whole number of at least 0"):
        corrupt(images, "gaussian_noise", 1, seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"have shape \(32, 32, 3\), expected \(n, height, width, 3\)"),
        (lambda x: x[..., :1], r"have shape \(12, 32, 32, 1\)"),
        (lambda x: x[:0], r"have shape \(0, 32, 32, 3\)"),
        (lambda x: x / 255, "multiply by 255"),
        (lambda x: (x > 127).astype(np.uint8), "has values from 0 to 1"),
        (lambda x: x.astype(float), r"are float64, expected uint8: .* round them"),
        (lambda x: x.astype(int), "are int64, expected uint8"),
        (lambda x: "images.npy", "are str, expected an array"),
    ],
)
def test_images_that_are_none_are_refused(images, change, message):
    wrong = change(images)
    for degrade in (
        lambda: content(wrong, 16),
        lambda: deliver(wrong, 64, "bilinear"),
        lambda: corrupt(wrong, "gaussian_blur", 1),
    ):
        with pytest.raises(ValueError, match=message):
            degrade()


def test_content_is_about_images_of_32_px(images):
    with pytest.raises(ValueError, match=r"expected \(n, 32, 32, 3\)"):
        content(deliver(images, 48, "bicubic"), 16)


ANYTHING = st.one_of(
    st.integers(-2, 9), st.floats(), st.text(max_size=3), st.none(), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=int(os.environ.get("FUZZ_CASES", "60")), deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3).map(lambda sides: (*sides, 3)),
    dtype=st.sampled_from(["uint8", "int64", "float32", "bool", "object", "complex64"]),
    top=st.sampled_from([1, 255, 300]),
    name=st.sampled_from([*SEVERITIES, *METHODS, "hail", None]),
    number=ANYTHING,
    seed=ANYTHING,
)
def test_fuzz_right_images_or_a_value_error(shape, dtype, top, name, number, seed):
    given = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    calls = (
        (lambda images: deliver(images, number, name), (number, number)),
        (lambda images: corrupt(images, name, number, seed), shape[1:3]),
    )
    for degrade, sides in calls:
        try:
            made = degrade(given)
        except ValueError:
            continue
        assert (given.dtype, given.ndim, made.dtype) == (np.uint8, 4, np.uint8)
        assert made.shape == (len(given), *sides, 3)
        # An image on its own becomes the same as among others.
        np.testing.assert_array_equal(degrade(given[-1:]), made[-1:])
