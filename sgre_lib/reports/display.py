"""What a notebook shows: figures with alt text, tables, Markdown."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from IPython.display import HTML, DisplayHandle, Image, Markdown, display
from markupsafe import Markup, escape
from PIL import Image as PictureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    Table = DataFrame | Sequence[str]
    Lines = Sequence[Sequence[Any]]
    Links = DataFrame | Mapping[str, Sequence[Any]]

CSS_PIXELS_PER_INCH = 96


def figure_output(figure: Figure, alt: str | None = None, *, dpi: int = 150) -> None:
    """Show a figure in a notebook as a PNG that carries `alt`, and close it so that the cell's end does not repeat it.

    `alt` is a sentence or two that say what the figure shows (default: the `alt_text` that the functions of
    `sgre_lib.figures` give theirs); an empty text is a ValueError. The picture keeps the figure's own size in inches
    (7 inches take 672 CSS pixels) whatever `dpi` is.
    """
    display(_make_picture(figure, alt, dpi))


class LiveFigure:
    """One picture of a notebook that is replaced by each figure shown: a curve that grows while a run goes on."""

    handle: DisplayHandle | None = None

    def show(self, figure: Figure, alt: str | None = None, *, dpi: int = 150) -> None:
        """Replace the picture; see `figure_output`."""
        picture = _make_picture(figure, alt, dpi)
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)


def _make_picture(figure: Figure, alt: str | None, dpi: int) -> Image:
    """The figure as a picture with alt text; the figure is closed."""
    import matplotlib.pyplot as plt

    alt = " ".join((alt if alt is not None else getattr(figure, "alt_text", "")).split())
    if not alt:
        raise ValueError("a figure needs alt text: one sentence that says what it shows")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    # The width is the picture's, not the figure's: a style with savefig.bbox "tight" saves another size.
    width = round(PictureFile.open(buffer).width / dpi * CSS_PIXELS_PER_INCH)
    return Image(data=buffer.getvalue(), format="png", width=width, alt=alt)


def html_table(table: Table, lines: Lines | None = None, caption: str = "", *, links: Links | None = None) -> str:
    """A plain, accessible HTML table of a data frame, or of a header and lines; see `table_output`."""
    header, headers = table, 1
    if lines is None:
        header, lines, headers = _read_frame(table, links)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = []
    for line in lines:
        scope = "row" if len(line) > 1 or len(header) == 1 else "rowgroup"
        # No colspan: readers, and our own tidying, then still know each cell's column.
        cells = [*map(escape, line), *[""] * (len(header) - len(line))]
        names = [f'<th scope="{scope}">{cell}</th>' for cell in cells[:headers]]
        body.append(f"<tr>{''.join(names)}{''.join(f'<td>{cell}</td>' for cell in cells[headers:])}</tr>")
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"


def _read_frame(frame: DataFrame, links: Links | None) -> tuple[list[str], list[list], int]:
    """Header and lines of a frame, and how many of its columns head the lines: those of a named index, or the first."""
    from pandas import DataFrame

    named = any(name is not None for name in frame.index.names)
    shown = frame.reset_index() if named else frame
    cells = shown.astype(object).where(shown.notna(), "\u2013").itertuples(index=False, name=None)
    addresses = DataFrame(index=frame.index) if links is None else DataFrame(links, dtype=object)
    if len(addresses) != len(frame):
        raise ValueError(f"{len(addresses)} lines of links for a table of {len(frame)}")
    targets = addresses.reindex(columns=shown.columns).itertuples(index=False, name=None)
    lines = [list(map(_format_cell, *pair)) for pair in zip(cells, targets, strict=True)]
    header = [" ".join(map(str, name)).strip() if isinstance(name, tuple) else str(name) for name in shown.columns]
    return header, lines, frame.index.nlevels if named else 1


def _format_cell(value: Any, address: Any) -> Any:
    text = f"{value:.6g}" if isinstance(value, float) else value
    if isinstance(address, os.PathLike):
        address = quote(Path(address).as_posix())
    return Markup('<a href="{}">{}</a>').format(address, text) if isinstance(address, str) and address else text


def table_output(table: Table, lines: Lines | None = None, caption: str = "", *, links: Links | None = None) -> None:
    """Show a table in a notebook as HTML: of a data frame, or of a header and lines of cells.

    The first cell of each line is its header, and a line of one cell heads the lines below it; a cell that is
    `markupsafe.Markup` stays HTML. Of a frame the index is shown only where it has a name; its levels are then the
    headers. Floats are shown with six digits, so round or format them before, and a missing value as a dash.
    links: addresses for the frame's cells, a column of values as long as the frame for any of its columns; a text is an
    address as it stands in HTML, a path is quoted, anything else is no link.
    """
    display(HTML(html_table(table, lines, caption, links=links)))


def markdown_output(text: str) -> None:
    """Show Markdown that was made by code."""
    display(Markdown(text))


def picture_output(path: str | os.PathLike) -> None:
    """Show a PNG that `figures.save_figure` wrote, with the alt text it carries, at its size in inches.

    Raises ValueError where the file carries no alt text.
    """
    with PictureFile.open(path) as picture:
        alt = picture.info.get("Description", "").strip()
        dpi = picture.info.get("dpi", (CSS_PIXELS_PER_INCH,))[0]
    if not alt:
        raise ValueError(f"{path} carries no alt text: it was not written by save_figure")
    width = round(picture.width / dpi * CSS_PIXELS_PER_INCH)
    display(Image(data=Path(path).read_bytes(), format="png", width=width, alt=alt))
