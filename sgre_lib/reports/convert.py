"""Executed notebooks as pages: what a reader is shown of a notebook, and the one-file HTML that shows it."""

import ast
import json
import logging
import re
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal

import nbformat
from bs4 import BeautifulSoup, Comment, Tag
from jinja2 import pass_context
from latex2mathml.converter import convert as convert_tex
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.validator import iter_validate
from traitlets.config import Config

from ..base.errors import UserError
from ..base.files import write_text
from .tidy import Links, tidy_html

log = logging.getLogger(__name__)

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

    title: of the page; None: the notebook's first heading. code="hidden" leaves out all code but the parameters, in one
    cell as they were used. Cells tagged `hide` are left out, and so is each section below the title whose code shows
    nothing. trail: addresses and names of the pages that lead here, the start page first; a name without an address is
    plain text. links: where links to local files lead (see `tidy.Links`); None leaves them. Pictures without alt text,
    and what cannot travel inside the file (a picture elsewhere, a script, a widget), are logged as warnings. An
    existing file is replaced only by a complete one. A notebook that is missing or unreadable raises UserError.
    """
    if code not in ("folded", "hidden"):
        raise UserError(f'code is "folded" or "hidden", not {code!r}')
    notebook, html = Path(notebook), Path(html)
    content = read_notebook(notebook)
    for number, cell in enumerate(content.cells, 1):
        if cell.cell_type == "code" and not has_tag(cell, "hide"):
            cell.outputs = [output for output in cell.outputs if _is_shown(output, number)]
    content.cells = _merge_parameters([cell for cell in content.cells if not has_tag(cell, "hide")])
    tidy = partial(tidy_html, folder=notebook.parent, links=links, ids={"content"})
    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(Path(__file__).parent / "templates")],
        filters={"markdown2html": _render_markdown, "tidy_html": tidy},
        config=Config(
            NbConvertBase={"display_data_priority": SHOWN_OUTPUTS},
            # One fold of messages a cell, and of a progress bar only its last state.
            CoalesceStreamsPreprocessor={"enabled": True},
        ),
    )
    page, _ = exporter.from_notebook_node(content, {"report": {"name": notebook.name, "code": code, "trail": trail}})
    soup = BeautifulSoup(page, "html.parser")
    _leave_out_silent_sections(soup.main)
    if soup.h1 is None:
        soup.main.insert(0, soup.new_tag("h1"))
        soup.h1.string = title or notebook.stem.replace("_", " ")
    soup.title.string = title or soup.h1.get_text()
    html.parent.mkdir(parents=True, exist_ok=True)
    return write_text(html, str(soup))


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of format 4; anything that is not a valid one raises UserError with the first fault."""
    try:
        raw = json.loads(text := path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such notebook") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
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


def _is_shown(output: NotebookNode, number: int) -> bool:
    """Whether an output of the cell of this number shows something; warns of what a reader of the page will miss."""
    data = output.get("data", {})
    shown = next((kind for kind in SHOWN_OUTPUTS if kind in data), "")
    if shown.startswith("image/") and not output.metadata.get(shown, {}).get("alt"):
        log.warning("cell %d: a figure has no alt text; show it with figure_output", number)
    # A report runs no program, and the plain-text stand-ins of these say nothing to a reader.
    if {"application/javascript", "application/vnd.jupyter.widget-view+json"} & data.keys():
        log.warning("cell %d: a widget or script output is left out of the report", number)
        return False
    return output.output_type == "error" or bool("".join(output.get("text", data.get(shown, ""))).strip())


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
    lines = own.source.split("\n")
    for name, node in reversed(declared.items()):
        new = changed.pop(name, node)
        if ast.dump(new.value) != ast.dump(node.value):  # its comment may speak of the value it had
            lines[node.lineno - 1 : node.end_lineno] = [ast.get_source_segment(given.source, new)]
    own.source = "\n".join([*lines, *(ast.get_source_segment(given.source, node) for node in changed.values())])
    return [cell for cell in cells if cell is not given]


def _assignments(source: str) -> dict[str, ast.Assign]:
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: node for node in nodes if isinstance(node.targets[0], ast.Name)}


def _leave_out_silent_sections(main: Tag) -> None:
    """Leave out each section below the title, with what is under it, that has code and whose code shows nothing.

    A section goes from its heading to the next one of the same or a higher level. The template has marked each code
    cell by a comment as `silent` or `shown`.
    """
    for heading in main.find_all(["h2", "h3", "h4", "h5", "h6"], recursive=False):
        section = [heading]
        for part in heading.next_siblings:
            if "h1" <= (part.name or "") <= heading.name:
                break
            section.append(part)
        marks = {part for part in section if isinstance(part, Comment)}
        if "silent" in marks and "shown" not in marks:
            for part in section:
                part.extract()
    for comment in main.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()


@pass_context
def _render_markdown(context: Any, source: str) -> str:
    """Render Markdown as nbconvert does, but with formulas in MathML and our own ids of headings."""
    attachments = context.get("cell", {}).get("attachments", {})
    renderer = _MarkdownRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


class _MarkdownRenderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML, which a browser sets and a screen reader reads.

    What cannot be converted stays as TeX in code, with a warning.
    """

    def inline_math(self, body: str, display: str = "inline") -> str:
        tex = " ".join(body.split())
        try:
            math = convert_tex(tex, display=display)
            unknown = re.search(r"<m\w>(\\\w+)</m\w>", math)  # a command that it does not know it shows as a name
            reason = f"{unknown[1]} is unknown" if unknown else ""
        except Exception as error:  # the converter's own errors have no common class
            reason = str(error) or type(error).__name__
        if reason:
            log.warning("the formula %s is shown as TeX: it cannot be made MathML (%s)", tex, reason)
            return f"<code>{escape(tex)}</code>"
        return math.replace("<math ", f'<math alttext="{escape(tex)}" ', 1)

    def block_math(self, body: str) -> str:
        formula = self.inline_math(body, "block")
        return f'<span class="display" role="group" aria-label="Formula" tabindex="0">{formula}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")
