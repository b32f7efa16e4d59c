"""What a notebook shows: figures with alt text, tables, Markdown."""

from __future__ import annotations

import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.display import HTML, Image, Markdown, display
from PIL import Image as PictureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def __init__(self):
        self.handle = None

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
    png = buffer.getvalue()
    # From the picture, not from the figure: a style with savefig.bbox "tight" saves another size. Bytes 16-20 of a PNG
    # are its width in pixels.
    width = round(int.from_bytes(png[16:20], "big") / dpi * CSS_PIXELS_PER_INCH)
    return Image(data=png, format="png", width=width, alt=alt)


def html_table(header: list[str], lines: list[list], caption: str = "") -> str:
    """A plain, accessible HTML table: the first cell of each line is its header; a line of one cell heads a group."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = []
    for cells in lines:
        first, *rest = (html.escape(str(cell)) for cell in cells)
        scope = "row" if rest or len(header) == 1 else "rowgroup"
        # No colspan: readers, and our own tidying, then still know each cell's column.
        filled = rest + [""] * (len(header) - 1 - len(rest))
        body.append(f'<tr><th scope="{scope}">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in filled) + "</tr>")
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"


def table_output(header: list[str], lines: list[list], caption: str = "") -> None:
    """Show a table in a notebook as HTML; the first cell of each line is its header."""
    display(HTML(html_table(header, lines, caption)))


def html_output(fragment: str) -> None:
    """Show a piece of HTML in a notebook."""
    display(HTML(fragment))


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
        width = round(picture.width / dpi * CSS_PIXELS_PER_INCH)
    if not alt:
        raise ValueError(f"{path} carries no alt text: it was not written by save_figure")
    display(Image(data=Path(path).read_bytes(), format="png", width=width, alt=alt))
