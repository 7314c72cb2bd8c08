"""The page of `make demo`, built and used in Chromium as people use it."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import cifar_compare as cc
from cifar_compare import roles
from cifar_compare.pictures import read_picture

OURS = ("truck_9_sample.png", "cat_test.jpg", "airplane_test.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    demo = pytest.importorskip("demo", reason="ai-edge-quantizer is missing", exc_type=ImportError)
    packed = [(demo.ROOT / "build" / f"litertjs-{name}-{demo.VERSION}.tgz").exists() for name in demo.RUNTIME]
    if not (all(packed) or shutil.which("npm")):
        pytest.skip("npm, which fetches the runtime, is not on PATH")
    folder = tmp_path_factory.mktemp("demo") / "demo"
    demo.main(folder)
    return folder


@pytest.fixture(scope="module")
def speed():
    pytest.importorskip("playwright", reason="Playwright is missing")
    speed = pytest.importorskip("demo_speed")
    if not speed.chromium():
        pytest.skip("Chromium is neither on PATH nor where CHROMIUM says")
    return speed


@pytest.fixture(scope="module")
def browser(speed, folder):
    with speed.opened(folder) as (browser, address):
        yield browser, address


@pytest.fixture
def visit(browser, request):
    """Open the page as a new visitor, by default until it is ready; no script of it may fail."""
    opened, address = browser
    faults = []

    def visit(link="", ready=True, prepare=None, **settings):
        context = opened.new_context(**settings)
        request.addfinalizer(context.close)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        if prepare:
            prepare(page)
        page.goto(address + link)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield visit
    assert not faults


def png(pixels, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def upload(name, data, mime="image/png"):
    return {"name": name, "mimeType": mime, "buffer": data}


def switches(page):
    return page.evaluate("Object.fromEntries(new FormData(document.getElementById('switches')))")


def labels(page):
    return [text.split(": ")[1].split(",")[0] for text in page.locator("#results strong").all_inner_texts()]


def test_networks_are_small(folder):
    assert sum(path.stat().st_size for path in folder.glob("*.tflite")) < 8e6


def test_resize_is_that_of_the_models(visit):
    code = """async ([data, side]) => {
        const { read } = await import(new URL("pictures.js", location));
        const { resize } = await import(new URL("pixels.js", location));
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        return [...resize(resize(await read(new Blob([bytes]), "a picture"), 32), side).data];
    }"""
    page, rng = visit(), np.random.default_rng(0)
    models = [(roles.parts(cc.load_model(name))[0], side) for name, side in (("custom_cnn", 32), ("mobilenet_v2", 128))]
    for height, width in ((1, 1), (1, 9), (40, 1), (5, 64), (33, 47), (201, 300), (32, 32), (3000, 4000)):
        block = 1 + height // 100  # a photograph of noise would be a large file
        coarse = rng.integers(0, 256, (-(-height // block), -(-width // block), 3), np.uint8)
        pixels = coarse.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
        for preprocessing, side in models:
            (expected,) = np.asarray(preprocessing(pixels[None].astype("float32")))
            made = page.evaluate(code, [base64.b64encode(png(pixels)).decode(), side])
            np.testing.assert_allclose(
                np.reshape(made, (side, side, 3)), expected, atol=0.05, err_msg=f"{pixels.shape}"
            )


def test_answers_are_those_of_the_exported_networks_and_of_keras(visit, speed, folder, cifar10):
    files = [(folder / name).read_bytes() for name in OURS]
    files += [png(image) for image in cifar10.validation.images[:200]]
    page = visit()
    told = [
        speed.ask(page, page.set_input_files, "#file", upload(f"{i}.png", file))["told"] for i, file in enumerate(files)
    ]
    for i, name in enumerate(speed.NAMES):
        preprocessing, network = roles.parts(cc.load_model(name))
        seen = np.concatenate([preprocessing(read_picture(file)[None].astype("float32")) for file in files])
        answers = np.array([answer[i]["probabilities"] for answer in told])
        np.testing.assert_allclose(answers, speed.litert(folder / f"{name}.tflite", seen), atol=1e-3)
        assert (answers.argmax(1) == network.predict(seen, verbose=0).argmax(1)).mean() >= 0.99


def test_preprocessing_off_changes_the_answer_and_on_restores_it(visit, speed, folder):
    """The link's picture is our truck, at the most pixels of the menu at which going past the preprocessing fails."""
    page = visit()
    speed.ask(page, page.get_by_role("link", name="See it fail").click)
    wanted = {"preprocessing": "nearest", "carried": "16", "enlarged": "blocks", "noise": "0", "jpeg": "0"}
    assert switches(page) == wanted
    row = json.loads((folder / "about.json").read_text())["study"]["nearest"]
    assert f"it gets {100 * row['accuracy']:.1f} % right" in page.inner_text("#why")
    past = labels(page)[1]
    found = {}
    for carried in ("32", "24", "16"):
        speed.ask(page, page.select_option, "[name=carried]", carried)
        for preprocessing in ("on", "nearest"):
            speed.ask(page, page.check, f"[value={preprocessing}]")
            found[carried, preprocessing] = labels(page)[1]
    assert past != "truck"
    assert found == {(c, p): past if (c, p) == ("16", "nearest") else "truck" for c, p in found}


def test_link_restores_picture_and_switches(visit, speed):
    page = visit("#picture=cat&carried=24&enlarged=smooth&noise=0.06&jpeg=65&preprocessing=bilinear")
    status, link = page.inner_text("#status"), page.url.partition("/#")[2]
    assert status.startswith("Our cat. Custom CNN: ")
    assert visit("#" + link).inner_text("#status") == status
    speed.ask(page, page.get_by_role("button", name="All switches back").click)
    assert page.inner_text("#status") != status
    odd = visit("#picture=../x&carried=7&noise=NaN&preprocessing=<b>&jpeg=")
    usual = {"preprocessing": "on", "carried": "native", "noise": "0", "jpeg": "0"}
    assert switches(odd) == usual
    assert odd.inner_text("#status").startswith("Our truck. ")
    assert "somebody’s own picture" in visit("#picture=own").inner_text("#error")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="alert(1)"><script>alert(1)</script></svg>'
NOISE = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
FRAMES = [Image.fromarray(np.full((20, 20, 3), grey, np.uint8)) for grey in (10, 240)]


NO_PICTURES = {
    "script.svg": SVG,
    "script.png": SVG,
    "empty.png": b"",
    "words.jpg": b"these are words",
    "cut.png": png(NOISE)[:60],
    "cut off.png": png(NOISE)[:2000],
    "<img src=x onerror=alert(1)>.png": b"GIF89a" + bytes(50),
    "huge.png": png(Image.new("1", (10_000, 10_000))),
    "liar.png": png(NOISE).replace(b"\x00\x00\x00\x32\x00\x00\x00\x28", b"\x7f\xff\xff\xff\x7f\xff\xff\xff"),
}


def test_one_sentence_for_what_is_no_picture_and_the_page_goes_on(visit, speed):
    page = visit()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for name, data in NO_PICTURES.items():
        before = page.inner_text("#status")
        page.set_input_files("#file", upload(name, data))
        page.wait_for_selector("#error:not([hidden])")
        error = page.inner_text("#error")
        assert error.startswith(f"{name} ")
        assert "JPEG, PNG, WebP, GIF, BMP or AVIF" in error or "100 million pixels, the limit is 67 million" in error
        assert page.inner_text("#status") == before
        speed.ask(page, page.get_by_role("button", name="cat").click)
        assert page.is_hidden("#error")


def test_first_frame_of_an_animation_is_read(visit, speed):
    page = visit()
    for kind in ("GIF", "PNG", "WEBP"):
        file = png(FRAMES[0], format=kind, save_all=True, append_images=FRAMES[1:], duration=1)
        speed.ask(page, page.set_input_files, "#file", upload("moving", file))
        page.wait_for_timeout(50)  # for the drawing
        grey = page.evaluate("document.getElementById('pixels').getContext('2d').getImageData(9, 9, 1, 1).data[0]")
        assert grey == pytest.approx(10, abs=3)


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_many_files_at_once(visit, speed, event):
    page = visit()
    code = """([event, data]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        for (let i = 0; i < 50; i++) files.items.add(new File([bytes], `${i}.png`, { type: "image/png" }));
        const options = { bubbles: true, cancelable: true, clipboardData: files, dataTransfer: files };
        const Kind = event === "paste" ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new Kind(event, options));
    }"""
    speed.ask(page, page.evaluate, code, [event, base64.b64encode(png(NOISE)).decode()])
    assert page.inner_text("#status").startswith("0.png (the first of 50 files). Custom CNN: ")


def test_nothing_is_asked_for_once_the_page_is_loaded(visit, speed, browser):
    page, asked = visit(), []
    page.context.on("request", lambda request: asked.append(request.url))
    speed.ask(page, page.get_by_role("button", name="airplane").click)
    speed.ask(page, page.set_input_files, "#file", upload("own.png", png(NOISE)))
    speed.ask(page, page.select_option, "[name=jpeg]", "40")
    speed.ask(page, page.check, "[value=bilinear]")
    assert {url.partition(":")[0] for url in asked} <= {"blob", "data"}
    # The page's own policy refuses another host, and whatever else would send something.
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('http://example.org/')")


def test_failed_loading_names_the_file(visit):
    def error(prepare):
        page = visit(ready=False, prepare=prepare)
        page.wait_for_selector("#error:not([hidden])")
        return page.inner_text("#error")

    for file in ("custom_cnn.tflite", "cat_test.jpg"):
        told = error(lambda page, file=file: page.route(f"**/{file}", lambda route: route.fulfill(status=404)))
        assert told.startswith(f"The file {file} could not be loaded (404)")
    damaged = error(lambda p: p.route("**/mobilenet_v2.tflite", lambda route: route.fulfill(body=b"x" * 999)))
    assert damaged.startswith("The network mobilenet_v2.tflite is damaged")
    assert "folder runtime/" in error(lambda p: p.route("**/*.wasm", lambda route: route.abort()))
    assert "no WebAssembly" in error(lambda p: p.add_init_script("delete window.WebAssembly"))


def test_camera(visit, speed):
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    speed.ask(page, page.get_by_role("button", name="Take the picture").click)
    assert page.inner_text("#status").startswith("Picture of the camera. ")
    assert page.is_hidden("#viewfinder")
    refused = visit(permissions=[])
    refused.get_by_role("button", name="Use the camera").click()
    refused.wait_for_selector("#error:not([hidden])")
    assert refused.inner_text("#error").startswith("The camera cannot be used (NotAllowedError)")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_keyboard_alone_and_no_sideways_scrolling(visit, speed, width):
    page = visit("#carried=16&enlarged=blocks", viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    order = ["", "truck", "cat", "airplane", "file", "camera", "preprocessing", "carried", "enlarged", "noise", "jpeg"]
    for expected in order:  # the first is the link
        page.keyboard.press("Tab")
        assert page.evaluate("(({ id, name, value }) => id || name || value || '')(document.activeElement)") == expected
    page.focus("[name=preprocessing]:checked")
    speed.ask(page, page.keyboard.press, "ArrowDown")
    assert switches(page)["preprocessing"] == "nearest"
    page.focus("[name=carried]")
    speed.ask(page, page.keyboard.press, "ArrowDown")
    assert switches(page)["carried"] == "8"
    for element in page.locator("button:visible, input, select, canvas, table").all():
        name = element.evaluate("(e) => e.ariaLabel || e.labels?.[0]?.innerText || e.caption?.innerText || e.innerText")
        assert name.strip(), element
