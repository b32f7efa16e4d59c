"""Executed notebooks as pages: what a reader is shown of a notebook, and the one-file HTML that shows it."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import nbformat
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.validator import iter_validate
from traitlets.config import Config

from ..base.errors import UserError
from ..base.files import write_text
from .tidy import Links, Tidier, format_formula

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"

# Outputs that are programs. A report runs none, and their plain-text stand-ins say nothing to a reader.
LIVE_OUTPUTS = {"application/javascript", "application/vnd.jupyter.widget-view+json"}

# Of the forms that one output comes in, the first of these is shown.
SHOWN_OUTPUTS = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]


def export_html(
    notebook: Path,
    html: Path,
    *,
    title: str | None = None,
    code: Literal["folded", "hidden"] = "folded",
    trail: Sequence[tuple[str | None, str]] = (),
    links: Links | None = None,
) -> Path:
    """Write an executed notebook as one HTML file that needs no network, and return the file's path.

    `title` is the page's title; without one it is the notebook's first heading. `code="hidden"` leaves out all code but
    the parameters, which say what was run. Cells tagged `hide` are left out, and so is each section below the title
    whose code shows nothing; papermill's parameters are shown in the place of the notebook's own. `trail` are addresses
    and names of the pages that lead here, the start page first; without an address a name is plain text. `links` says
    where links to local files lead (see `tidy.Links`); None leaves them. Pictures without alt text, and what cannot
    travel inside the file (a picture elsewhere, a script, a widget), are logged as warnings. An existing file is
    replaced only by a complete one. A notebook that is missing or unreadable raises UserError.
    """
    if code not in ("folded", "hidden"):
        raise UserError(f'code is "folded" or "hidden", not {code!r}')
    notebook, html = Path(notebook), Path(html)
    content = read_notebook(notebook)
    for number, cell in enumerate(content.cells, 1):
        if not has_tag(cell, "hide"):
            _clean_outputs(number, cell)
    content.cells = [cell for cell in content.cells if not has_tag(cell, "hide")]
    content.cells = _leave_out_silent_sections(_merge_parameters(content.cells))
    prose = [cell.source for cell in content.cells if cell.cell_type == "markdown"]
    titles = [text for source in prose for level, text in headings(source) if level == 1]
    report = {
        "title": title or (titles[0] if titles else notebook.stem.replace("_", " ")),
        "has_heading": bool(titles),
        "code": code,
        "trail": trail,
        "source": _describe_source(notebook, content),
    }
    page, _ = _ReportExporter(Tidier(notebook.parent, links)).from_notebook_node(content, {"report": report})
    html.parent.mkdir(parents=True, exist_ok=True)
    return write_text(html, page)


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def read_notebook(path: Path) -> NotebookNode:
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


def headings(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield level and text of each `#` heading outside fenced code."""
    for level, lines in _split_at_headings(markdown):
        if level:
            text = re.sub(r"\s*#*\s*$", "", lines[0].lstrip(" #"))
            yield level, re.sub(r"[*`]|\]\(.*?\)|\[", "", text)


def _split_at_headings(markdown: str) -> list[tuple[int, list[str]]]:
    """The lines of Markdown in parts: before the first heading (level 0), then from each heading, with its level."""
    parts: list[tuple[int, list[str]]] = [(0, [])]
    fence = ""
    for line in markdown.split("\n"):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        elif heading := re.match(r" {0,3}(#{1,6})(\s|$)", line):
            parts.append((len(heading[1]), []))
        parts[-1][1].append(line)
    return parts


# --- What is shown -------------------------------------------------------------------------------------------------


def _clean_outputs(number: int, cell: NotebookNode) -> None:
    """Keep of a cell's outputs those that show something, and warn of what its reader will miss."""
    kept = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = next((kind for kind in SHOWN_OUTPUTS if kind in data), "")
        if LIVE_OUTPUTS & data.keys():
            log.warning("cell %d: a widget or script output is left out of the report", number)
        elif output.output_type == "error" or "".join(output.get("text", data.get(shown, ""))).strip():
            kept.append(output)
        if shown.startswith("image/") and not output.metadata.get(shown, {}).get("alt"):
            log.warning("cell %d: a figure has no alt text; show it with figure_output", number)
    if "outputs" in cell:
        cell.outputs = kept


def _merge_parameters(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Make one cell of the notebook's parameters and those that papermill put after them: the values that were used."""
    own = next((cell for cell in cells if has_tag(cell, "parameters")), None)
    given = next((cell for cell in cells if has_tag(cell, "injected-parameters")), None)
    if own is None or given is None:
        return cells
    try:
        changed, declared = _assignments(given.source), _assignments(own.source)
    except SyntaxError:  # not Python
        return cells
    lines: list[str | None] = own.source.split("\n")
    for name, node in declared.items():
        new = changed.pop(name, node)
        if ast.dump(new.value) != ast.dump(node.value):  # its comment may speak of the value it had
            lines[node.lineno - 1 : node.end_lineno] = [
                ast.get_source_segment(given.source, new),
                *[None] * (node.end_lineno - node.lineno),
            ]
    lines += [ast.get_source_segment(given.source, node) for node in changed.values()]
    own.source = "\n".join(line for line in lines if line is not None)
    return [cell for cell in cells if cell is not given]


def _assignments(source: str) -> dict[str, ast.Assign]:
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: node for node in nodes if isinstance(node.targets[0], ast.Name)}


def _leave_out_silent_sections(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Leave out each section below the title, with what is under it, that has code and whose code shows nothing.

    A section goes from its heading to the next one of the same or a higher level; parameters show themselves.
    """
    parts = [
        (cell, level, lines)
        for cell in cells
        for level, lines in (_split_at_headings(cell.source) if cell.cell_type == "markdown" else [(0, [cell.source])])
    ]
    left_out: set[int] = set()
    for start, (_, level, _) in enumerate(parts):
        if level > 1:
            ends = (end for end in range(start + 1, len(parts)) if 0 < parts[end][1] <= level)
            section = range(start, next(ends, len(parts)))
            code = [parts[place][0] for place in section if parts[place][0].cell_type == "code"]
            if code and not any(cell.outputs or has_tag(cell, "parameters") for cell in code):
                left_out |= set(section)
    kept: dict[int, list[str]] = {}
    for place, (cell, _, lines) in enumerate(parts):
        if place not in left_out:
            kept.setdefault(id(cell), []).extend(lines)
    for cell in cells:
        cell.source = "\n".join(kept.get(id(cell), []))
    return [cell for cell in cells if id(cell) in kept]


def _describe_source(path: Path, notebook: NotebookNode) -> str:
    finished = str(notebook.metadata.get("papermill", {}).get("end_time") or "")
    day = re.match(r"\d{4}-\d\d-\d\d", finished)
    return f"Made from {path.name}" + (f", run on {day[0]}." if day else ".")


# --- The page ------------------------------------------------------------------------------------------------------


class _ReportExporter(HTMLExporter):
    """nbconvert with our template, whose filters make Markdown and HTML outputs fit to travel in one file."""

    def __init__(self, tidier: Tidier):
        super().__init__(
            template_name="report",
            extra_template_basedirs=[str(TEMPLATES)],
            config=Config(
                NbConvertBase={"display_data_priority": SHOWN_OUTPUTS},
                # One fold of messages a cell, and of a progress bar only its last state.
                CoalesceStreamsPreprocessor={"enabled": True},
            ),
        )
        self.tidier = tidier

    def default_filters(self) -> Iterable[tuple[str, Any]]:
        yield from super().default_filters()
        yield "tidy_html", self.tidier.tidy

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Render Markdown as nbconvert does, but with formulas in MathML and our own ids of headings."""
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _MarkdownRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return self.tidier.tidy(MarkdownWithMath(renderer=renderer).render(source))


class _MarkdownRenderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML: the page has no MathJax to set them."""

    def inline_math(self, body: str) -> str:
        return format_formula(body)

    def block_math(self, body: str) -> str:
        formula = format_formula(body, "block")
        return f'<span class="display" role="group" aria-label="Formula" tabindex="0">{formula}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")
