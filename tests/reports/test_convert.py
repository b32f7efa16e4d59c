"""Protects the HTML reports (one file, offline, readable without sight or code)."""

from __future__ import annotations

import base64
import io
import logging
import re
from html.parser import HTMLParser

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from sgre_lib.base.errors import UserError
from sgre_lib.reports.convert import export_html

PURPLE = (122, 31, 162)


# --- Building and reading ------------------------------------------------------------------------------------------


def png_output(width: int = 672, **metadata):
    buffer = io.BytesIO()
    Image.new("RGB", (1050, 300), PURPLE).save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<Figure>"}
    return new_output("display_data", data=data, metadata={"image/png": {"width": width, **metadata}})


def html_output(html: str):
    return new_output("execute_result", data={"text/html": html, "text/plain": "as text"}, execution_count=1)


def tagged(source: str, *tags: str, outputs=()):
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=list(outputs))


def write(path, cells):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


def export(tmp_path, *cells, **options) -> str:
    return export_html(write(tmp_path / "run.ipynb", cells), tmp_path / "run.html", **options).read_text("utf-8")


class Page(HTMLParser):
    """A page's elements as (name, attributes), and the text of each element that has no child."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.texts, self.open = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.open, data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag and text]


def fetched(html: str) -> list[str]:
    """What a browser would ask for from outside the file."""
    page = Page(html)
    asked = []
    for tag, attributes in page.elements:
        if tag in ("script", "iframe", "object", "embed", "base"):
            asked.append(tag)
        for name, value in attributes.items():
            link = tag == "a" and name == "href"
            if name in ("src", "srcset", "poster", "data", "href", "xlink:href", "background") and not link:
                asked += [] if value.startswith(("data:", "#")) else [f"{tag} {name}={value}"]
            if name == "style" and "url(" in value.lower():
                asked.append(value)
    return asked + re.findall(r"@import.*|url\(.*?\)", " ".join(page.text("style")))


# --- Reports -------------------------------------------------------------------------------------------------------


def test_page_is_one_file_with_a_skeleton_for_every_reader(tmp_path):
    html = export(tmp_path, new_markdown_cell("# Train\n\nText.\n\n## Results & more\n\n## Results & more"))
    page = Page(html)
    assert fetched(html) == []
    assert len(html) < 12_000
    assert page.all("html") == [{"lang": "en"}]
    assert page.text("title") == ["Train"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert page.all("main") == [{"id": "content"}]
    assert {"class": "skip", "href": "#content"} in page.all("a")
    assert [heading["id"] for heading in page.all("h2")] == ["Results-&-more", "Results-&-more-2"]
    assert "@media print" in html
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_outside_parts_of_outputs_are_left_out(tmp_path, caplog):
    hostile = """<link rel="stylesheet" href="https://x.org/a.css"><style>@import "https://x.org/b.css";</style>
        <style>p { background: url(//x.org/c.png) }</style><script src="https://x.org/d.js"></script><script>go()</script>
        <object data="https://x.org/e"><iframe src="https://x.org/f"></iframe></object>
        <img src="https://x.org/g.png" alt="A cat"><img srcset="h.png 2x" src="data:image/gif;base64,R0lGODlhAQAB">
        <p style="background: URL('i.png')" onclick="go()">kept</p><svg><image xlink:href="https://x.org/j.png"/></svg>
        <a href="javascript:go()">k</a><a href="https://x.org/l">a link</a>"""
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "HBox(children=...)"}
    outputs = [html_output(hostile), new_output("display_data", data=widget)]
    with caplog.at_level(logging.WARNING, logger="sgre_lib.reports"):
        prose = new_markdown_cell("# T\n\n![B](https://x.org/m.png)")
        html = export(tmp_path, prose, new_code_cell("1", outputs=outputs))
    assert fetched(html) == []
    assert "onclick" not in html
    assert "go()" not in html
    assert "HBox" not in html
    assert "javascript" not in html
    assert "kept" in html
    assert 'href="https://x.org/l"' in html
    assert "[picture not included: A cat]" in html
    assert "[picture not included: B]" in html
    assert "https://x.org/g.png" in caplog.text
    assert "cell 2: a widget or script output" in caplog.text


def test_pictures_beside_the_notebook_travel_inside(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for place in (folder, tmp_path):
        Image.new("RGB", (2, 2)).save(place / "a photo.png")
    prose = new_markdown_cell("# T\n\n![A photo](a%20photo.png) with <b>bold <i>tags</i></b> ![B](../a%20photo.png)")
    output = html_output('<img src="a photo.png"><img src="data:image/png;base64,' + "A" * 9000 + '">')
    html = export(folder, prose, new_code_cell("1", outputs=[output]))
    images = Page(html).all("img")
    assert [image["alt"] for image in images] == ["A photo", "", ""]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert "<b>bold <i>tags</i></b> [picture not included: B]" in html


@pytest.mark.parametrize("address", ["https://x.org/" + "a" * 300 + ".png", "a%00b.png", "http://[", "?", ""])
def test_odd_addresses_break_nothing(tmp_path, address):
    output = html_output(f'<img src="{address}" alt="A"><a href="{address}">text</a><a href="{address}%00">b</a>')
    html = export(tmp_path, new_code_cell("1", outputs=[output]), links=lambda path: (tmp_path / path).resolve().name)
    assert "[picture not included: A]" in html
    assert "text" in html
    assert fetched(html) == []


def test_figures_carry_alt_text_and_width(tmp_path, caplog):
    cells = [
        new_markdown_cell("# T"),
        new_code_cell("a", outputs=[png_output(alt='The "best" is 84 < 85')]),
        new_code_cell("b", outputs=[png_output()]),
        tagged("c", "hide", outputs=[png_output()]),
    ]
    with caplog.at_level(logging.WARNING, logger="sgre_lib.reports"):
        page = Page(export(tmp_path, *cells))
    assert [image["alt"] for image in page.all("img")] == ['The "best" is 84 < 85', ""]
    assert {image["width"] for image in page.all("img")} == {"672"}
    assert len(page.all("figure")) == 2
    assert [message.split(";")[0] for message in caplog.messages] == ["cell 3: a figure has no alt text"]


@pytest.mark.parametrize("code", ["folded", "hidden"])
def test_code_is_folded_or_hidden(tmp_path, code):
    cells = [
        new_markdown_cell("# T"),
        tagged("epochs = 40  # passes", "parameters"),
        tagged("epochs = 2", "injected-parameters"),
        new_code_cell("visible_name = 1", outputs=[new_output("stream", text="printed\n")]),
        tagged("hidden_name = 1", "hide", outputs=[new_output("stream", text="secret\n")]),
        new_markdown_cell("hidden prose", metadata={"tags": ["hide"]}),
        new_code_cell(""),
    ]
    html = export(tmp_path, *cells, code=code)
    assert Page(html).text("summary") == ["Parameters"] + ["Code"] * (code == "folded")
    assert all("open" not in details for details in Page(html).all("details"))
    assert ("visible_name" in html) == (code == "folded")
    assert "hidden" not in html.split("</style>")[1]
    assert "secret" not in html
    assert Page(html).text("pre") == ["printed"]


def test_parameters_are_those_that_were_used(tmp_path):
    own = 'data = "mini"  # a dataset\nrates = [  # all of them\n    1e-4,\n]\nepochs = 40  # many\nseed = 0  # of all'
    given = '# Parameters\ndata = "other"\nrates = [0.1, 0.2]\nseed = 0\nnew = None\n'
    cells = [new_markdown_cell("# T"), tagged(own, "parameters"), tagged(given, "injected-parameters")]
    soup = BeautifulSoup(export(tmp_path, *cells), "html.parser")
    (block,) = soup.find_all("details")
    said = 'data = "other"\nrates = [0.1, 0.2]\nepochs = 40  # many\nseed = 0  # of all\nnew = None'
    assert block.pre.get_text().strip() == said
    alone = BeautifulSoup(export(tmp_path, tagged(given, "injected-parameters")), "html.parser")
    assert "rates = [0.1, 0.2]" in alone.pre.get_text()


def test_a_section_whose_code_shows_nothing_is_left_out(tmp_path):
    silent = [
        new_output("stream", text=" \n"),
        new_output("display_data", data={"text/markdown": "", "text/plain": "<Markdown>"}),
        new_output("display_data", data={"application/javascript": "go()", "text/plain": "x"}),
    ]
    cells = [
        new_markdown_cell("# T\n\nIntroduction.\n\n## Parameters"),
        tagged("epochs = 40", "parameters"),
        new_markdown_cell("## Prose\n\nOnly prose.\n\n## Silent\n\nNothing follows."),
        new_code_cell("x = 1", outputs=silent),
        new_markdown_cell("### Under it\n\nNothing here.\n\n```\n## no heading\n```"),
        new_code_cell("y = 1"),
        new_markdown_cell("More.\n\n## Partly"),
        new_code_cell("z = 1"),
        new_markdown_cell("### Heard"),
        new_code_cell("1", outputs=[new_output("stream", text="shown\n")]),
        new_markdown_cell("### Silent too"),
        new_code_cell("2"),
        new_markdown_cell("## End"),
    ]
    html = export(tmp_path, *cells, code="hidden")
    page = Page(html)
    assert page.text("h2") == ["Parameters", "Prose", "Partly", "End"]
    assert page.text("h3") == ["Heard"]
    assert page.text("p") == ["Introduction.", "Only prose."]
    assert page.text("pre") == ["shown"]
    assert Page(export(tmp_path, new_markdown_cell("# T"), new_code_cell("1"))).text("h1") == ["T"]


def test_links_to_local_files_lead_where_the_caller_says(tmp_path):
    prose = "# T\n\n[a](../a%20b.ipynb#Results) [b](c.csv) [c](#T) [d](https://x.org/e.html) [e](javascript:go())"
    output = html_output("""<a href="a.ipynb">f</a> <a href="file:///g.txt">g</a> <a href="mailto:h@x.org">h</a>
        <a href="http://[">i</a> <a href="java\tscript:go()">j</a>""")
    cells = [new_markdown_cell(prose), new_code_cell("1", outputs=[output])]
    links = {"../a b.ipynb": "../a%20b.html", "a.ipynb": "a.html"}

    def addresses(**options) -> dict[str, str]:
        soup = BeautifulSoup(export(tmp_path, *cells, **options), "html.parser")
        return {link.get_text(): link["href"] for link in soup.main.find_all("a")}

    kept = {"c": "#T", "d": "https://x.org/e.html", "h": "mailto:h@x.org"}
    assert addresses(links=links) == {"a": "../a%20b.html#Results", "f": "a.html", **kept}
    assert addresses(links=links.get) == addresses(links=links)
    local = {"a": "../a%20b.ipynb#Results", "b": "c.csv", "f": "a.ipynb", "g": "file:///g.txt"}
    assert addresses() == {**local, **kept}


def test_trail_says_where_the_page_stands(tmp_path):
    trail = [("../index.html", "All <tables>"), (None, "lost")]
    soup = BeautifulSoup(export(tmp_path, new_markdown_cell("# T"), trail=trail), "html.parser")
    assert [item.get_text() for item in soup.nav.find_all("li")] == ["All <tables>", "lost"]
    assert [link["href"] for link in soup.nav.find_all("a")] == ["../index.html"]
    assert BeautifulSoup(export(tmp_path, new_markdown_cell("# T")), "html.parser").nav is None


def test_messages_are_folded_and_errors_visible(tmp_path):
    outputs = [
        new_output("stream", name="stderr", text="\r 10%|#"),
        new_output("stream", name="stderr", text="\r100%|###\nUserWarning: <odd>\n"),
        new_output("error", ename="ValueError", evalue="no", traceback=["\x1b[31mValueError\x1b[0m: <no>"]),
    ]
    html = export(tmp_path, new_markdown_cell("# T"), new_code_cell("1", outputs=outputs))
    assert Page(html).text("summary") == ["Code", "Messages"]
    assert "100%|###\nUserWarning: &lt;odd&gt;" in html
    assert "10%|#\n" not in html
    assert '<pre class="error" tabindex="0">ValueError: &lt;no&gt;</pre>' in html


def test_tables_keep_headers_and_scroll(tmp_path):
    own = """<table border="1"><caption>Results</caption><thead><tr><th scope="col">method</th><th>mAP</th></tr></thead>
        <tbody><tr><th scope="row">SGRE</th><td>84.1</td></tr><tr><th>other</th><td>&ndash;</td></tr></tbody></table>"""
    prose = new_markdown_cell("# T\n\n|a|b|\n|-|-|\n|x|1|")
    html = export(tmp_path, prose, new_code_cell("1", outputs=[html_output(own)]))
    page = Page(html)
    assert [header["scope"] for header in page.all("th")] == ["col", "col", "col", "col", "row", "row"]
    boxes = [box for box in page.all("div") if box.get("class") == "table"]
    assert [box["aria-label"] for box in boxes] == ["Table", "Results"]
    assert all(box["tabindex"] == "0" for box in boxes)
    assert [cell.get("class") for cell in page.all("td")] == [None, "number", "number", "number"]
    assert "border" not in page.all("table")[1]
    assert "as text" not in html


def test_columns_of_numbers_are_known_by_their_cells(tmp_path):
    columns = {
        "number": ["84.1 ± 0.3 (2 seeds)", "-0.5", "9e-05", "1,234 M", "–", "nan"],
        "text": ["3 of 4 done, 1 failed", "12 images of 20", "1", "2", "3", "4"],
    }
    lines = "".join(f"<tr><th>a</th><td>{a}</td><td>{b}</td></tr>" for a, b in zip(*columns.values(), strict=True))
    page = Page(export(tmp_path, new_code_cell("1", outputs=[html_output(f"<table>{lines}</table>")])))
    assert [cell.get("class") for cell in page.all("td")] == ["number", None] * 6


def test_formulas_are_mathml_or_shown_as_tex(tmp_path, caplog):
    prose = "# T\n\n$p_m$ and $$\\sum_i p_i$$\n\n$\\unknown{x}<y$ and $\\left(x$"
    latex = new_output("display_data", data={"text/latex": "$\\frac{a}{b}$", "text/plain": "Math"})
    page = Page(html := export(tmp_path, new_markdown_cell(prose), new_code_cell("1", outputs=[latex])))
    assert [formula["alttext"] for formula in page.all("math")] == ["p_m", "\\sum_i p_i", "\\frac{a}{b}"]
    assert [formula["display"] for formula in page.all("math")] == ["inline", "block", "inline"]
    assert len(page.all("mfrac")) == 1
    assert "<code>\\unknown{x}&lt;y</code>" in html
    assert "<code>\\left(x</code>" in html
    assert "cannot be made MathML (\\unknown is unknown)" in caplog.text


def test_title_is_given_or_first_heading_or_file_name(tmp_path):
    evil = '</title><script>alert("x")</script>'
    html = export(tmp_path, new_markdown_cell("# `Train` *SGRE*"), title=evil)
    assert Page(html).text("title")[0].startswith("</title>")
    assert fetched(html) == []
    assert Page(export(tmp_path, new_markdown_cell("# `Train` *SGRE*"))).text("title") == ["Train SGRE"]
    untitled = Page(export(tmp_path, new_markdown_cell("Text.")))
    assert untitled.text("title") == untitled.text("h1") == ["run"]


def test_failed_export_keeps_the_report_of_before(tmp_path, monkeypatch):
    notebook, html = write(tmp_path / "run.ipynb", [new_markdown_cell("# T")]), tmp_path / "run.html"
    html.write_text("before")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export_html(notebook, html)
    assert html.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.ipynb"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such notebook"),
        ("not json", "not JSON"),
        ("[]", "not a notebook of format 4"),
        ('{"nbformat": 3}', "not a notebook of format 4"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}', "cell 1: not valid"),
    ],
)
def test_unreadable_notebook_is_a_user_error_of_one_line(tmp_path, content, message):
    notebook = tmp_path / "run.ipynb"
    if content is not None:
        notebook.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        export_html(notebook, tmp_path / "run.html")
    assert str(notebook) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.html").exists()
