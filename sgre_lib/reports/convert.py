"""Notebooks as things to read: figures with alt text, one-file HTML reports, and a check of our notebooks' sources."""

from __future__ import annotations

import base64
import json
import logging
import mimetypes
import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.validator import iter_validate
from traitlets.config import Config

from ..base.errors import UserError

log = logging.getLogger(__name__)

# Outputs that are programs. A report runs none, and their plain-text stand-ins say nothing to a reader.
LIVE_OUTPUTS = {"application/javascript", "application/vnd.jupyter.widget-view+json"}

# Of the forms that one output comes in, the first of these is shown.
SHOWN_OUTPUTS = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]

# A table's column is one of numbers when each of its cells starts as a number does, or is a dash for "none".
DASHES = ("-", "\u2013", "\u2014")

NUMBER = re.compile(r"[-+\u2212±]?\.?\d|nan$", re.IGNORECASE)


def export_html(
    notebook: Path,
    html: Path,
    *,
    title: str | None = None,
    code: Literal["folded", "hidden"] = "folded",
    back: tuple[str, str] | None = None,
) -> Path:
    """Write an executed notebook as one HTML file that needs no network, and return the file's path.

    `title` is the page's title; without one it is the notebook's first heading. Cells tagged `hide` are left out;
    `code="hidden"` leaves out all code but the parameters, which say what was run. `back` is address and name of the
    page that leads here, for a link at the top. Pictures without alt text, and what cannot travel inside the file (a
    picture elsewhere, a script, a widget), are logged as warnings. An existing file is replaced only by a complete one.
    A notebook that is missing or unreadable raises UserError.
    """
    if code not in ("folded", "hidden"):
        raise UserError(f'code is "folded" or "hidden", not {code!r}')
    notebook, html = Path(notebook), Path(html)
    content = read_notebook(notebook)
    numbered = [(number, cell) for number, cell in enumerate(content.cells, 1) if not has_tag(cell, "hide")]
    content.cells = [_report_cell(number, cell) for number, cell in numbered]
    prose = [cell.source for cell in content.cells if cell.cell_type == "markdown"]
    titles = [text for source in prose for level, text in headings(source) if level == 1]
    report = {
        "title": title or (titles[0] if titles else notebook.stem.replace("_", " ")),
        "has_heading": bool(titles),
        "code": code,
        "back": back,
        "source": _describe_source(notebook, content),
    }
    page, _ = _ReportExporter(notebook.parent).from_notebook_node(content, {"report": report})

    html.parent.mkdir(parents=True, exist_ok=True)
    unfinished = html.with_name(f".{html.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, html)
    finally:
        unfinished.unlink(missing_ok=True)
    return html


def has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook of format 4; anything that is not a valid one raises UserError with the first fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such notebook") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not a notebook, its text is not JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("nbformat") != 4:
        raise UserError(f"{path}: not a notebook of format 4")
    fault = next(iter_validate(raw, version=4, version_minor=raw.get("nbformat_minor", 0)), None)
    if fault is not None:
        where = list(fault.relative_path)
        cell = f"cell {where[1] + 1}: " if where[:1] == ["cells"] and len(where) > 1 else ""
        raise UserError(f"{path}: {cell}not valid in a notebook ({fault.message[:200]})")
    return nbformat.reads(text, as_version=4)


def _report_cell(number: int, cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take a cell's live outputs away, and warn of what its reader will miss."""
    outputs = cell.get("outputs", [])
    kept = [output for output in outputs if not LIVE_OUTPUTS & output.get("data", {}).keys()]
    if len(kept) < len(outputs):
        log.warning("cell %d: a widget or script output is left out of the report", number)
        cell.outputs = kept
    for output in kept:
        shown = next((kind for kind in SHOWN_OUTPUTS if kind in output.get("data", {})), "")
        if shown.startswith("image/") and not output.metadata.get(shown, {}).get("alt"):
            log.warning("cell %d: a figure has no alt text; show it with figure_output", number)
    return cell


def _describe_source(path: Path, notebook: nbformat.NotebookNode) -> str:
    finished = str(notebook.metadata.get("papermill", {}).get("end_time") or "")
    day = re.match(r"\d{4}-\d\d-\d\d", finished)
    return f"Made from {path.name}" + (f", run on {day[0]}." if day else ".")


class _ReportExporter(HTMLExporter):
    """nbconvert with our template, whose filters make Markdown and HTML outputs fit to travel in one file."""

    def __init__(self, folder: Path):
        super().__init__(
            template_name="report",
            extra_template_basedirs=[str(Path(__file__).parent / "templates")],
            config=Config(
                NbConvertBase={"display_data_priority": SHOWN_OUTPUTS},
                # One fold of messages a cell, and of a progress bar only its last state.
                CoalesceStreamsPreprocessor={"enabled": True},
            ),
        )
        self.folder = folder
        self.ids = {"content"}

    def default_filters(self):
        yield from super().default_filters()
        yield "tidy_html", self.tidy_html

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Render Markdown as nbconvert does, but with drawn formulas and our own ids of headings."""
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _MarkdownRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return self.tidy_html(MarkdownWithMath(renderer=renderer).render(source))

    def tidy_html(self, fragment: str) -> str:
        """Return the fragment with nothing to fetch or run, linkable headings and tables that scroll."""
        soup = BeautifulSoup(fragment, "html.parser")
        # Not by nbconvert's embed_images, which closes each inline tag at once: <b>bold</b> becomes <b></b>bold.
        for image in soup.find_all("img", src=True):
            _embed_picture(image, self.folder)
        _remove_outside_parts(soup)
        for heading in soup.find_all(re.compile("^h[1-6]$")):
            self._give_id(heading)
        for table in soup.find_all("table"):
            _tidy_table(soup, table)
        return str(soup)

    def _give_id(self, heading: Tag) -> None:
        """Give a heading the id that JupyterLab gives it, so that links within a notebook work in both places."""
        wanted = heading.get("id") or "-".join(heading.get_text().split()) or "section"
        unique, again = wanted, 2
        while unique in self.ids:
            unique, again = f"{wanted}-{again}", again + 1
        self.ids.add(unique)
        heading["id"] = unique


def _embed_picture(image: Tag, folder: Path) -> None:
    """Put a picture that lies in the notebook's folder, or below it, into the tag itself."""
    if re.match(r"[a-z]+:", image["src"], re.IGNORECASE):  # data: or https:
        return
    kind, _ = mimetypes.guess_type(image["src"])
    path = (folder / unquote(image["src"])).resolve()
    if kind and kind.startswith("image/") and path.is_relative_to(folder.resolve()) and path.is_file():
        image["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _remove_outside_parts(soup: BeautifulSoup) -> None:
    """Remove scripts and everything that would make a browser ask for another file; links to click on remain."""
    for tag in soup.find_all(["script", "link", "meta", "base", "iframe", "object", "embed", "audio", "video"]):
        log.warning("an output's <%s> is left out of the report", tag.name)
        tag.extract()
    for style in soup.find_all("style"):
        # pandas writes its own table style as <style scoped>, which browsers now apply to the whole page.
        if style.has_attr("scoped") or re.search(r"@import|url\(", style.get_text(), re.IGNORECASE):
            style.extract()
    for tag in soup.find_all(True):
        for name in list(tag.attrs):
            value = " ".join(tag[name]) if isinstance(tag[name], list) else str(tag[name]).strip()
            if name == "src":
                fetched = not value.startswith("data:")
            elif name == "href" and tag.name == "a":
                fetched = value.lower().startswith("javascript:")
            elif name in ("href", "xlink:href"):
                fetched = not value.startswith(("#", "data:"))
            elif name == "style":
                fetched = "url(" in value.lower()
            else:
                fetched = name.startswith("on") or name in ("srcset", "poster", "background", "action", "formaction")
            if fetched:
                del tag[name]
                if name == "src":
                    log.warning("the picture %s is left out: it is not inside the notebook", value)
    for image in soup.find_all("img"):
        if not image.has_attr("src"):
            image.replace_with(f"[picture not included: {image.get('alt') or 'no description'}]")
        elif not image.has_attr("alt"):
            log.warning("a picture in Markdown or HTML has no alt text")
            image["alt"] = ""


def _tidy_table(soup: BeautifulSoup, table: Tag) -> None:
    """Mark a table's headers and number columns, and wrap it in a box that scrolls where the screen is narrow."""
    del table["border"]
    for header in table.find_all("th"):
        if not header.has_attr("scope"):
            header["scope"] = "col" if header.find_parent("thead") else "row"
    rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
    # A position in a row is a column only where no cell spans several.
    if not table.find(lambda tag: tag.has_attr("colspan") or tag.has_attr("rowspan")):
        for column in range(max(map(len, rows), default=0)):
            cells = [row[column] for row in rows if column < len(row)]
            texts = [cell.get_text().strip() for cell in cells if cell.name == "td"]
            numbers = [text for text in texts if text not in ("", *DASHES)]
            if numbers and all(NUMBER.match(text) for text in numbers):
                for cell in cells:
                    cell["class"] = [*cell.get("class", []), "number"]
    name = table.caption.get_text(" ", strip=True) if table.caption else "Table"
    box = table.wrap(soup.new_tag("div", attrs={"class": "table", "role": "group", "tabindex": "0"}))
    box["aria-label"] = name


class _MarkdownRenderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as drawings: the page has no MathJax to set them."""

    def inline_math(self, body: str) -> str:
        return _draw_formula(body)

    def block_math(self, body: str) -> str:
        return f'<span class="display">{_draw_formula(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _draw_formula(tex: str) -> str:
    """Return a formula as an inline SVG that is read out as its TeX; TeX that matplotlib cannot set stays as code."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    size = 1000  # units of the drawing in one em: fine enough for whole numbers
    tex = " ".join(tex.split())
    try:
        outline = TextPath((0, 0), f"${tex}$", size=size, prop=FontProperties(math_fontfamily="stix"))
        box = outline.get_extents()
    except (ValueError, AttributeError):  # the latter for a formula without ink, such as a lone space
        log.warning("the formula %s is shown as TeX: matplotlib cannot draw it", tex)
        return f"<code>{escape(tex)}</code>"
    letters = dict(zip((Outline.MOVETO, Outline.LINETO, Outline.CURVE3, Outline.CURVE4), "MLQC", strict=True))
    steps = []
    for points, kind in outline.iter_segments(curves=True, simplify=False):
        if kind == Outline.CLOSEPOLY:  # its point means nothing
            steps.append("Z")
            continue
        downward = [round(-value) if index % 2 else round(value) for index, value in enumerate(points)]
        steps.append(letters[kind] + " ".join(map(str, downward)))
    view = f"{box.x0:.0f} {-box.y1:.0f} {box.width:.0f} {box.height:.0f}"
    place = f"--height: {box.height / size:.3f}em; --shift: {box.y0 / size:.3f}em"
    return (
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" viewBox="{view}" style="{place}">'
        f'<path d="{"".join(steps)}"/></svg>'
    )


def headings(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield level and text of each `#` heading outside fenced code."""
    fence = ""
    for line in markdown.splitlines():
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        elif heading := re.match(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$", line):
            yield len(heading[1]), re.sub(r"[*`]|\]\(.*?\)|\[", "", heading[2])
