"""Protects the folder of pages: links lead inside it, it is made again only where needed, and it harms no other folder."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sgre_lib.base.errors import UserError
from sgre_lib.reports.folder import Page, write_folder

START = """# All runs

[first](runs/a%20%C3%BC/train.ipynb) [second](runs/b/train.ipynb#Result) [file](runs/b/x%20y.csv) [lost](gone.md)"""


def write(path: Path, *cells) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


@pytest.fixture
def given(tmp_path):
    """Where to write, the pages and the files."""
    root = tmp_path / "results"
    start = write(root / "start.ipynb", new_markdown_cell(START))
    first = write(root / "runs" / "a ü" / "train.ipynb", new_markdown_cell("# First\n\n[start](../../start.ipynb)"))
    table = new_output("display_data", data={"text/html": '<p><a href="../a ü/train.ipynb">beside</a></p>'})
    second = write(root / "runs" / "b" / "train.ipynb", new_markdown_cell("# Second\n\n## Result"),
                   new_code_cell("1", outputs=[table]))  # fmt: skip
    (root / "runs" / "b" / "x y.csv").write_text("a,b\n", encoding="utf-8")
    trail = (("index.html", "All runs"),)
    pages = [
        Page(start, "index.html"),
        Page(first, "runs/a ü/index.html", trail=trail),
        Page(second, "runs/b/train.html", title="Run b", trail=(*trail, ("runs/a ü/index.html#First", "first"))),
    ]
    return tmp_path / "out of ü %41", pages, [(root / "runs" / "b" / "x y.csv", "runs/b/x y.csv")]


def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def times(out: Path) -> dict[str, int]:
    files = (file for file in out.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(out).as_posix(): file.stat().st_mtime_ns for file in files}


def links_of(page: Path) -> dict[str, str]:
    return {link.get_text(): link["href"] for link in soup_of(page).find_all("a") if link.get("class") != ["skip"]}


def changed_by(out: Path, *arguments) -> set[str]:
    before = times(out)
    write_folder(out, *arguments, progress=False)
    after = times(out)
    return {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)} - {".stamps.json"}


def test_links_lead_to_the_pages_and_files_of_the_folder(given):
    out, pages, files = given
    index = write_folder(out, pages, files, progress=False)
    assert index == out / "index.html"
    moved = out.rename(out.with_name("moved"))
    for page in sorted(moved.rglob("*.html")):
        for link in soup_of(page).find_all("a"):
            file, _, anchor = link["href"].partition("#")
            target = (page.parent / unquote(file)).resolve() if file else page
            assert target.is_file(), link
            assert target.is_relative_to(moved)
            assert soup_of(target).find(id=anchor) if anchor else True, link
    assert links_of(moved / "index.html").keys() == {"first", "second", "file"}
    assert "lost" in soup_of(moved / "index.html").main.get_text()
    second = soup_of(moved / "runs" / "b" / "train.html")
    assert second.title.get_text() == "Run b"
    assert [item.get_text() for item in second.nav.find_all("li")] == ["All runs", "first"]
    assert links_of(moved / "runs" / "b" / "train.html")["beside"] == "../a%20%C3%BC/index.html"
    assert (moved / "runs" / "b" / "x y.csv").read_text(encoding="utf-8") == "a,b\n"


def test_a_page_is_made_again_only_where_it_has_changed(given, monkeypatch):
    out, pages, files = given
    write_folder(out, pages, files, progress=False)
    before = times(out)
    write_folder(out, pages, files, progress=False)
    assert times(out) == before
    write(pages[1].notebook, new_markdown_cell("# Changed"))
    assert changed_by(out, pages, files) == {"runs/a ü/index.html"}
    files[0][0].write_text("changed", encoding="utf-8")
    assert changed_by(out, pages, files) == {"runs/b/x y.csv"}
    pages[2] = Page(pages[2].notebook, pages[2].address, title="Another", trail=pages[2].trail)
    assert changed_by(out, pages, files) == {"runs/b/train.html"}
    pages[1] = Page(pages[1].notebook, "runs/first.html", trail=pages[1].trail)  # all others have links to it
    expected = {"index.html", "runs/b/train.html", "runs/a ü/index.html", "runs/first.html"}
    pages[2] = Page(pages[2].notebook, pages[2].address, title="Another", trail=pages[1].trail)
    assert changed_by(out, pages, files) == expected
    assert not (out / "runs" / "a ü").exists()
    (out / "runs" / "first.html").unlink()
    assert changed_by(out, pages, files) == {"runs/first.html"}
    monkeypatch.setattr("sgre_lib.reports.folder._converter_mark", lambda: "another converter")
    assert changed_by(out, pages, files) == {page.address for page in pages}


def test_what_is_not_used_any_more_is_removed(given):
    out, pages, files = given
    write_folder(out, pages, files, progress=False)
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert changed_by(out, pages[:1], ()) == {
        "index.html",
        "runs/a ü/index.html",
        "runs/b/train.html",
        "runs/b/x y.csv",
    }
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == ["index.html", "mine.txt"]
    assert links_of(out / "index.html") == {}


@pytest.mark.parametrize("fault", ["half", "missing"])
def test_an_unreadable_notebook_does_not_break_the_folder(given, caplog, fault):
    out, pages, files = given
    whole = pages[1].notebook.read_text(encoding="utf-8")
    write_folder(out, pages, files, progress=False)
    if fault == "half":
        pages[1].notebook.write_text(whole[:40], encoding="utf-8")
    else:
        pages[1].notebook.unlink()
    with caplog.at_level(logging.WARNING):
        write_folder(out, pages, files, progress=False)
    assert "runs/a ü/index.html is left out" in caplog.text
    assert not (out / "runs" / "a ü" / "index.html").exists()
    assert links_of(out / "index.html").keys() == {"second", "file"}
    assert links_of(out / "runs" / "b" / "train.html").keys() == {"All runs"}
    assert changed_by(out, pages, files) == set()
    pages[1].notebook.write_text(whole, encoding="utf-8")
    assert changed_by(out, pages, files) == {page.address for page in pages}
    assert "first" in links_of(out / "index.html")


def test_an_interrupted_build_goes_on(given, monkeypatch):
    out, pages, files = given
    converted = []

    def stop_at_the_third(notebook, html, **options):
        if len(converted) == 2:
            raise KeyboardInterrupt
        converted.append(html)
        return export_html(notebook, html, **options)

    from sgre_lib.reports.convert import export_html

    with monkeypatch.context() as patch:
        patch.setattr("sgre_lib.reports.folder.export_html", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            write_folder(out, pages, files, progress=False)
    before = times(out)
    assert changed_by(out, pages, files) == {"runs/b/train.html", "runs/b/x y.csv"}
    assert before.keys() == {"index.html", "runs/a ü/index.html", ".stamps.json"}


def test_mistakes_are_refused_before_anything_is_written(given, tmp_path):
    out, pages, files = given
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("mine", encoding="utf-8")
    other.mkdir()
    (other / "index.html").write_text("mine", encoding="utf-8")
    for folder, words in ((file, "is a file"), (other, "something else"), (file / "below", "cannot be made")):
        with pytest.raises(UserError, match=words):
            write_folder(folder, pages, files, progress=False)
    assert (other / "index.html").read_text(encoding="utf-8") == "mine"
    assert len(list(other.iterdir())) == 1
    for wrong in ("../x.html", "/x.html", ".stamps.json", "a/../../x.html", ""):
        with pytest.raises(ValueError, match="not an address"):
            write_folder(out, [*pages, Page(pages[1].notebook, wrong)], progress=False)
    with pytest.raises(ValueError, match="address of two"):
        write_folder(out, pages, [*files, (file, "index.html")], progress=False)
    with pytest.raises(ValueError, match=r"index\.html"):
        write_folder(out, pages[1:], files, progress=False)
    pages[0].notebook.write_text("no notebook", encoding="utf-8")
    with pytest.raises(UserError, match="not a notebook"):
        write_folder(out, pages, files, progress=False)


def test_a_folder_that_is_being_written_is_refused(given):
    out, pages, files = given
    write_folder(out, pages, files, progress=False)
    code = (
        "import sys; from sgre_lib.base.lock import folder_lock\nwith folder_lock(sys.argv[1], 'x'): print(); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        with pytest.raises(UserError, match="in use"):
            write_folder(out, pages, files, progress=False)
    finally:
        holder.communicate(b"\n", timeout=60)
    write_folder(out, pages, files, progress=False)
