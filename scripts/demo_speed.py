"""Measure the page in build/demo/ in Chromium, into results/demo.json.

    python scripts/demo_speed.py       (on an idle machine, after `make demo`)

docs/templates/speed.md tells what was measured.
"""

import contextlib
import functools
import http.server
import json
import os
import shutil
import statistics
import threading
from pathlib import Path

import numpy as np

from cifar_compare.artefacts import NAMES
from cifar_compare.system import write_json

ROOT = Path(__file__).resolve().parents[1]
DEMO, RECORD = ROOT / "build" / "demo", ROOT / "results" / "demo.json"
RUNTIME = ("core.js", "wasm-utils.js", "litert_wasm_internal.js", "litert_wasm_internal.wasm")
# The first: Chromium's sandbox does not start for root. The others: no calls home, and a camera that is none.
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
ARGUMENTS += ("--use-fake-device-for-media-stream",)


def chromium():
    """The path of Chromium: what CHROMIUM names, or one on PATH; None where there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextlib.contextmanager
def opened(folder):
    """A browser of Playwright's, and the address at which it finds what lies in a folder."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            try:
                yield browser, f"http://127.0.0.1:{server.server_port}/"
            finally:
                browser.close()
                server.shutdown()


def ask(page, act, *arguments):
    """What the page answers to `act(*arguments)`: "all", its milliseconds, and "told", a dict for each of NAMES."""
    page.evaluate("delete document.body.dataset.answer")
    act(*arguments)
    return json.loads(page.locator("body[data-answer]").get_attribute("data-answer"))


def litert(path, pixels):
    """The probabilities (n, 10) of an exported network, for what it sees (n, size, size, 3)."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    return np.concatenate([next(iter(run(pixels=row[None]).values())) for row in pixels])


def measure():
    """Sizes in bytes and times in milliseconds."""
    loads, answers = [], []
    with opened(DEMO) as (browser, address):
        for _ in range(3):
            page = browser.new_page()
            page.goto(address)
            loads.append(float(page.locator("body[data-ready]").get_attribute("data-ready")))
            answers += [ask(page, page.get_by_role("button", name="truck").click) for _ in range(7)]
            page.close()
        version = browser.version
    networks = {}
    for i, name in enumerate(NAMES):
        milliseconds = statistics.median(answer["told"][i]["milliseconds"] for answer in answers)
        networks[name] = {"bytes": (DEMO / f"{name}.tflite").stat().st_size, "milliseconds": milliseconds}
    return {
        "browser": f"Chromium {version}, headless, on {os.cpu_count()} cores",
        "networks": networks,
        "runtime_bytes": sum((DEMO / "runtime" / name).stat().st_size for name in RUNTIME),
        "load_milliseconds": statistics.median(loads),
        "answer_milliseconds": statistics.median(answer["all"] for answer in answers),
    }


if __name__ == "__main__":
    write_json(RECORD, measure())
