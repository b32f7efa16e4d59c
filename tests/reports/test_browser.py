"""Protects how pages look in a browser: nothing fetched, nothing cut or scrolling sideways, one left edge, on paper too."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from sgre_lib.reports.display import html_table
from sgre_lib.reports.folder import Page, write_folder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on PATH", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")

PROSE = (
    """# A page

A paragraph that is long enough to be broken into lines, with `code`, a [link](second.ipynb#Result) and $\\frac{a}{b}$.

## Formulas

$$\\sum_{i=1}^{N} x_i + """
    + "x + " * 80
    + """y$$

- a list

> a quote

|a|b|
|-|-|
|in Markdown|1|

```python
first = 1  # """
    + "long " * 60
    + """
```
"""
)


def show_html(fragment: str):
    return new_output("display_data", data={"text/html": fragment, "text/plain": "as text"})


def figure(width: int):
    buffer = io.BytesIO()
    Image.new("RGB", (1050, 300), (122, 31, 162)).save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    return new_output("display_data", data=data, metadata={"image/png": {"alt": "A plane.", "width": width}})


def cells() -> list:
    wide = pd.DataFrame({"row": ["A row with a name", "GAP"]} | {f"metric {n}": [84.1, 80.0] for n in range(30)})
    long = pd.DataFrame({"table": ["voc2007"], "about": ["word " * 60], "number": [1]})
    outputs = [
        show_html(html_table(wide, caption="A wide table", links={"metric 1": ["second.ipynb", None]})),
        show_html(html_table(long, caption="A table of words")),
        figure(672),
        figure(1100),
        new_output("stream", text="printed " * 60 + "x" * 500 + "\n" * 60 + "end\n"),
        new_output("stream", name="stderr", text="y" * 500),
        new_output("error", ename="E", evalue="e", traceback=["z" * 500]),
        new_output("display_data", data={"text/markdown": "Markdown **from code**."}),
    ]
    return [
        new_markdown_cell(PROSE),
        new_code_cell(f"name = '{'p' * 500}'", metadata={"tags": ["parameters"]}),
        new_code_cell("y = 1  # " + "y" * 500, outputs=outputs),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of two pages, moved after it was made."""
    root = tmp_path_factory.mktemp("browser ü %41")
    metadata = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    nbformat.write(new_notebook(cells=cells(), metadata=metadata), root / "first.ipynb")
    second = [new_markdown_cell("# Second\n\n[first](first.ipynb) [file](a%20b.csv)\n\n## Result")]
    nbformat.write(new_notebook(cells=second, metadata=metadata), root / "second.ipynb")
    (root / "a b.csv").write_text("a,b\n", encoding="utf-8")
    trail = [("index.html", "A start page with a long name " * 4), ("runs/a ü/second.html#Result", "itself")]
    pages = [Page(root / "first.ipynb", "index.html"), Page(root / "second.ipynb", "runs/a ü/second.html", trail=trail)]
    write_folder(root / "made", pages, [(root / "a b.csv", "files/a b.csv")], progress=False)
    return (root / "made").rename(root / "moved")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=[360, 1000], ids="{}px".format)
def view(request, browser):
    """A browser's page of this width, which has asked for nothing but the page and said nothing when it is closed."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    documents = [url for url in asked if not url.startswith("data:")]
    page.close()
    assert [Path(unquote(urlsplit(url).path)).suffix for url in documents] == [".html"]
    assert said == []


ADDRESSES = ["index.html", "runs/a ü/second.html"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_scrolls_sideways_and_pictures_are_there(folder, view, address):
    view.goto((folder / address).as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") == view.viewport_size["width"]
    assert view.evaluate("[...document.images].every(image => image.naturalWidth == 1050)")
    view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth") == view.viewport_size["width"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_links_lead_to_what_is_there(folder, browser, view, address):
    view.goto((folder / address).as_uri())
    links = view.evaluate("[...document.links].map(link => link.href)")
    assert len(links) >= 3
    for link in links:
        path = Path(unquote(urlsplit(link).path))
        assert path.is_file(), link
        assert path.is_relative_to(folder)
        if anchor := unquote(urlsplit(link).fragment):
            assert f'id="{anchor}"' in path.read_text(encoding="utf-8"), link


def test_everything_begins_at_the_left_edge_of_the_text(folder, view):
    view.goto((folder / "index.html").as_uri())
    kinds = "main > p, h1, h2, blockquote, table, figure img, pre.printed, pre.error, details, .display, pre, footer"
    edges = view.evaluate(
        """kinds => Object.fromEntries(kinds.split(", ").map(kind => [kind, [...document.querySelectorAll(kind)]
            .filter(one => !one.parentElement.closest("details")).map(one => one.getBoundingClientRect().left)]))""",
        kinds,
    )
    left = edges["main > p"][0]
    assert all(edges.values())
    assert {kind: found for kind, found in edges.items() if any(abs(edge - left) > 0.5 for edge in found)} == {}


def test_boxes_that_scroll_can_be_reached_by_keyboard(folder, view):
    view.goto((folder / "index.html").as_uri())
    boxes = view.evaluate("""[...document.querySelectorAll("main *")]
        .filter(one => getComputedStyle(one).overflowX == "auto" && !one.closest("details")
            && (one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight))
        .map(one => [one.className || one.tagName, one.tabIndex])""")
    assert {"table", "printed", "display"} <= {name for name, _ in boxes}
    assert all(index == 0 for _, index in boxes), boxes
    view.keyboard.press("Tab")
    skip = view.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    assert skip.bounding_box()["x"] >= 0


def test_formulas_are_set(folder, view):
    view.goto((folder / "index.html").as_uri())
    above, below = view.evaluate("""[...document.querySelector("mfrac").children]
        .map(part => part.getBoundingClientRect()).map(box => (box.top + box.bottom) / 2)""")
    assert below > above + 5


def test_nothing_is_cut_on_paper(folder, browser):
    page = browser.new_page(viewport={"width": 672, "height": 900})  # A4 without its margins
    page.emulate_media(media="print")
    page.goto((folder / "index.html").as_uri())
    # A formula cannot be broken into lines: this one of 80 terms is not counted.
    cut = page.evaluate("""[...document.querySelectorAll("body *")]
        .filter(one => !one.closest("details, .display, .skip"))
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1 || one.scrollWidth > one.clientWidth + 1
            && getComputedStyle(one).display != "inline" && one.clientWidth)
        .map(one => [one.tagName, one.className, one.textContent.slice(0, 40)])""")
    assert cut == []
    assert page.locator("details.parameters pre").bounding_box()["height"] > 20
    assert not page.locator("details.code").first.is_visible()
    assert not page.locator("pre.printed").evaluate("one => one.scrollHeight > one.clientHeight")
    page.close()
