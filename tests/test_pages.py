"""The pages that people read: their links lead somewhere, and they are readable on a telephone and on a screen."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import report

import cifar_compare as cc
from cifar_compare.artefacts import NAMES

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = [ROOT / "README.md", ROOT / "models" / "README.md", ROOT / "test_images" / "README.md"]
WRITTEN += sorted((ROOT / "docs").glob("*.md"))
WIDTHS = (390, 1280)  # px: a telephone, a small screen
SMALLEST = 11  # px, text in figures


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The report as `make compare` writes it, of the recorded answers and the notebooks as they are committed."""
    folder = tmp_path_factory.mktemp("site") / "report"
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in report.NOTEBOOKS}
    report.write_pages(folder, {name: cc.load_predictions(name) for name in NAMES}, "Recorded.", notebooks)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text() for path in sorted(site.rglob("*.html"))}


class Page(HTMLParser):
    """What a page refers to, and the texts of its images."""

    def __init__(self, text):
        super().__init__()
        self.links, self.alts, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.links += [told[key] for key in ("href", "src", "srcset") if told.get(key)]
        self.ids.add(told.get("id"))
        if tag == "img":
            self.alts.append(told.get("alt"))


def broken(link, folder):
    """Whether a link within the folder's files leads nowhere."""
    return not link.startswith(("https://", "http://", "data:", "#")) and not (folder / link.split("#")[0]).exists()


def test_links_of_the_site_lead_somewhere(site, pages):
    assert {"index.html", "01_custom_cnn.html", "docs/low-res.html", "docs/experiments.html"} <= set(pages)
    for name, text in pages.items():
        page = Page(text)
        assert len(page.links) >= 7, name
        assert [link for link in page.links if broken(link, (site / name).parent)] == [], name
        for link in page.links:
            file, _, anchor = link.partition("#")
            if anchor and not file.startswith("http"):
                assert anchor in Page(((site / name).parent / file if file else site / name).read_text()).ids, (
                    name,
                    link,
                )
        assert not re.search(r"\]\([^)]*\)", re.sub(r"<(pre|code).*?</\1>", "", text, flags=re.DOTALL)), name


def heading_ids(path):
    """The anchors that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_repository_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert [link for link in links if broken(link, path.parent)] == []
    for link in links:
        if "#" in link and not link.startswith("http"):
            name, anchor = link.split("#")
            assert anchor in heading_ids(path.parent / name if name else path), link
    assert "![](" not in text, "a picture without an alt text"


def test_pages_say_what_they_are(pages):
    for name, text in pages.items():
        assert '<html lang="en">' in text
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert len(re.findall(r"<h1", text)) == 1, name
        assert "prefers-color-scheme: dark" in text
        assert all(Page(text).alts), name


def test_the_index_tells_what_it_shows(pages):
    text, (cnn, mobile) = pages["index.html"], (cc.load_predictions(name) for name in NAMES)
    assert f"<strong>{100 * mobile.accuracy:.1f} %</strong>" in text
    assert f"<strong>{100 * cnn.accuracy:.1f} %</strong>" in text
    for path in report.NOTEBOOKS:
        teaser = nbformat.read(path, as_version=4).cells[0].source.split("\n\n")[1].split()[:4]
        assert f'<a href="{path.stem}.html">' in text
        assert " ".join(teaser) in " ".join(text.split()) or re.search(r"[`*\[]", " ".join(teaser))


PROBE = """<!doctype html><body><script>
const told = [], pages = PAGES;
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:844px;border:0`;
  document.body.append(frame);
  frame.getBoundingClientRect();  // laid out first, so that <picture> chooses by the right width
  const loaded = new Promise(resolve => frame.onload = resolve);
  frame.src = page;
  await loaded;
  const at = frame.contentDocument, images = [...at.images], seenBy = frame.contentWindow;
  const chosen = image => [...(image.closest("picture")?.querySelectorAll("source") ?? [])].every(
    source => seenBy.matchMedia(source.media).matches === image.currentSrc.endsWith(source.srcset.split("/").pop()));
  for (let i = 0; i < 50 && !images.every(image => image.complete && chosen(image)); i++)
    await new Promise(resolve => setTimeout(resolve, 100));
  told.push({page, width, scrolled: at.documentElement.scrollWidth,
    wide: [...at.querySelectorAll("main *")].filter(each => each.getBoundingClientRect().right > width
      && !each.closest("table *, pre *, .wide *")).map(each => each.outerHTML.slice(0, 200)),
    broken: images.filter(image => !image.naturalWidth).map(image => image.src.slice(0, 80)),
    figures: images.map(image => [image.currentSrc.slice(0, 200), image.getBoundingClientRect().width])});
  frame.remove();
}
(async () => {
  for (const page of pages) for (const width of WIDTHS) await look(page, width);
  document.body.textContent = JSON.stringify(told);
})();
</script></body>"""


@pytest.fixture(scope="module")
def seen(site, pages):
    """What headless Chromium sees of each page at each width."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not browser:
        pytest.skip(f"none of {', '.join(names)} is on PATH, and CHROMIUM does not name one")
    probe = site / "probe.html"
    probe.write_text(PROBE.replace("PAGES", json.dumps(list(pages))).replace("WIDTHS", json.dumps(WIDTHS)))
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={site.parent / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=240000"]
    command = [browser, *options, "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    probe.unlink()
    found = re.search(r"<body>(\[.*\])</body>", done.stdout, re.DOTALL)
    assert found, f"Chromium said {done.stdout[-500:]}\n{done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))


def test_no_page_scrolls_sideways(seen, pages):
    assert len(seen) == len(pages) * len(WIDTHS)
    assert [(row["page"], row["scrolled"], row["wide"]) for row in seen if row["scrolled"] > row["width"]] == []


def test_no_picture_is_broken(seen):
    assert sum(len(row["figures"]) for row in seen) > 40
    assert [(row["page"], row["broken"]) for row in seen if row["broken"]] == []


def test_text_in_figures_is_large_enough(seen, site):
    looked_at = set()
    for row in seen:
        for source, shown in row["figures"]:
            if source.endswith(".svg"):
                text = (site / Path(source).name).read_text()
                width = float(re.search(r'viewBox="0 0 ([\d.]+) ', text)[1])
                sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
                assert sizes
                assert min(sizes) * shown / width >= SMALLEST, (row["page"], row["width"], source)
                looked_at.add((Path(source).name, row["width"]))
            elif "handed" in source or "few-images" in source:
                assert ("narrow" in source) == (row["width"] < 600)
    assert len(looked_at) == 4 * len(WIDTHS)
