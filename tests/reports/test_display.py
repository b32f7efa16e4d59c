"""Protects what notebooks show: figures keep their size and alt text, tables their headers, links and odd signs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from markupsafe import Markup
from PIL import Image

from sgre_lib.reports.display import LiveFigure, figure_output, picture_output, table_output


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed."""
    found = []
    monkeypatch.setattr("sgre_lib.reports.display.display", lambda item, **_: found.append(item))
    return found


def read_table(shown) -> tuple[BeautifulSoup, list[list[str]]]:
    """The table shown last, and the texts of its lines."""
    table = BeautifulSoup(shown[-1].data, "html.parser")
    return table, [[cell.get_text() for cell in line.find_all(["th", "td"])] for line in table.find_all("tr")]


def test_figure_output_keeps_inches_and_closes(shown):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7, 2))
    with pytest.raises(ValueError, match="alt text"):
        figure_output(figure, " \n")
    figure_output(figure, "The curve\n  rises.", dpi=100)
    assert not plt.fignum_exists(figure.number)
    data, metadata = DisplayFormatter().format(shown[0])
    assert metadata["image/png"] == {"alt": "The curve rises.", "width": 672}
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size == (700, 200)


def test_live_figure_replaces_its_picture(monkeypatch):
    import matplotlib.pyplot as plt

    updates = []

    class Handle:
        update = staticmethod(updates.append)

    monkeypatch.setattr("sgre_lib.reports.display.display", lambda picture, display_id: Handle())
    live = LiveFigure()
    for alt in ("First.", "Second."):
        live.show(plt.figure(figsize=(1, 1)), alt)
    assert [picture.alt for picture in updates] == ["Second."]


def test_picture_output_needs_alt_text(shown, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no alt text"):
        picture_output(tmp_path / "a.png")
    assert shown == []


def test_table_of_lines(shown):
    table_output(["a <b>", "n"], [["x & y", None], [Markup('<a href="b">g</a>roup')]], 'Of "lines"')
    table, texts = read_table(shown)
    assert texts == [["a <b>", "n"], ["x & y", "None"], ["group", ""]]
    assert table.a["href"] == "b"
    assert table.caption.get_text() == 'Of "lines"'
    assert [header["scope"] for header in table.find_all("th")] == ["col", "col", "row", "rowgroup"]


def test_table_of_a_frame(shown):
    frame = pd.DataFrame({"row": ["<SGRE>", "GAP"], "mAP": [84.1234567, float("nan")], "images": [20, 3]})
    table_output(frame, caption="A frame")
    table, texts = read_table(shown)
    assert texts == [["row", "mAP", "images"], ["<SGRE>", "84.1235", "20"], ["GAP", "–", "3"]]
    assert [cell.get_text() for cell in table.select("tbody th[scope=row]")] == ["<SGRE>", "GAP"]
    table_output(frame.set_index(["row", "images"]))
    table, texts = read_table(shown)
    assert texts[1] == ["<SGRE>", "20", "84.1235"]
    assert len(table.select("tbody th[scope=row]")) == 4
    assert table.caption is None
    odd = pd.DataFrame({"a": [Markup("<i>x</i>"), "y"], "b": [pd.NA, 1], "c": [pd.NaT, pd.Timestamp("2026-01-02")]})
    table_output(odd)
    table, texts = read_table(shown)
    assert texts[1:] == [["x", "–", "–"], ["y", "1", "2026-01-02 00:00:00"]]
    assert table.i.get_text() == "x"
    wide = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("mAP", "mean"), ("mAP", "deviation")]))
    table_output(wide)
    assert read_table(shown)[1] == [["mAP mean", "mAP deviation"], ["1", "2"]]


def test_cells_of_a_frame_lead_somewhere(shown):
    frame = pd.DataFrame(
        {"mAP": [84.1, 80.0], "seeds": pd.Categorical(["a", None])}, index=pd.Index(["x", "y"], name="row")
    )
    links = {"mAP": ["runs/a%20b.html#mAP", None], "row": [None, Path("run s/b.html")], "unknown": ["c", "d"]}
    for given in (links, pd.DataFrame(links)):
        table_output(frame, links=given)
        table, texts = read_table(shown)
        found = {link.get_text(): link["href"] for link in table.find_all("a")}
        assert found == {"84.1": "runs/a%20b.html#mAP", "y": "run%20s/b.html"}
        assert texts[2] == ["y", "80", "–"]
    with pytest.raises(ValueError, match="1 lines of links for a table of 2"):
        table_output(frame, links={"mAP": ["a"]})
