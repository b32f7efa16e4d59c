"""Protects the check of our notebooks' sources: every rule finds a planted fault."""

from __future__ import annotations

import json

import nbformat
import pytest
from lint_notebooks import check_notebook_sources
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sgre_lib.base.errors import UserError


def tagged(source: str, *tags: str, outputs=()):
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=list(outputs))


def write(path, cells):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


def good_cells():
    cells = [
        new_markdown_cell("# Title\n\nText.\n\n```\n#### not a heading\n```"),
        tagged('epochs = 40  # passes\nlr = -1e-4  # a step\nnames = [  # of labels\n    "cat",\n]', "parameters"),
        new_markdown_cell("## Section\n\n### Part"),
        new_code_cell("%matplotlib inline\nimport json\n\nawait_me = json.dumps({})"),
    ]
    return cells + [cell for number in range(6) for cell in (new_markdown_cell("Text"), new_code_cell(f"a = {number}"))]


def findings(tmp_path, cells):
    write(tmp_path / "01_a.ipynb", cells)
    return check_notebook_sources(tmp_path)


def test_good_source_passes(tmp_path):
    assert findings(tmp_path, good_cells()) == []


@pytest.mark.parametrize(
    ("index", "cell", "finding"),
    [
        (0, new_markdown_cell("Text"), "cell 1: not a Markdown cell that starts with '# '"),
        (1, tagged("a = 1", "parameters"), "cell 2: parameters: a has no trailing comment"),
        (1, tagged("a = (1, 2)  # x", "parameters"), "cell 2: parameters: a is not a plain literal"),
        (1, tagged("a = 2 * 3  # x", "parameters"), "cell 2: parameters: a is not a plain literal"),
        (1, tagged("a = {1: 2}  # x", "parameters"), "cell 2: parameters: a is not a plain literal"),
        (1, tagged("a = b = 1  # x", "parameters"), "cell 2: parameters: line 1 is not `name = literal`"),
        (1, tagged("import os  # x", "parameters"), "cell 2: parameters: line 1 is not `name = literal`"),
        (1, new_code_cell("a = 1"), "0 code cells are tagged parameters, not one"),
        (3, tagged("a = 1  # x", "parameters"), "2 code cells are tagged parameters, not one"),
        (2, new_markdown_cell("### Part"), "cell 3: heading 'Part' jumps from level 1 to 3"),
        (3, new_code_cell("1", outputs=[new_output("stream", text="x")]), "cell 4: holds outputs"),
        (3, new_code_cell("1", execution_count=7), "cell 4: holds the execution count 7"),
        (3, new_code_cell("1", metadata={"papermill": {}}), "cell 4: holds papermill's metadata"),
        (3, new_code_cell("1\n" * 26), "cell 4: 26 lines of code, more than 25"),
        (3, new_code_cell("class A:\n    pass"), "cell 4: class A belongs in the library"),
        (3, new_code_cell("def f():\n" + "    1\n" * 10), "cell 4: function f has 11 lines"),
        (3, new_code_cell("import sys\nsys.path.append('..')"), "cell 4: uses sys.path"),
        (3, new_code_cell("warnings.filterwarnings('ignore')"), "cell 4: silences warnings with filterwarnings"),
        (3, new_code_cell("simplefilter(action='ignore')"), "cell 4: silences warnings with simplefilter"),
        (3, new_code_cell("globals()['a']"), "cell 4: looks variables up with globals()"),
        (2, new_code_cell("1"), "cell 4: the third code cell in a row"),
        (3, new_code_cell("open('/home/me/x')"), "cell 4: names a path of one machine: '/home/me/x'"),
        (3, new_code_cell("f'/work/{1}'"), "cell 4: names a path of one machine: '/work/'"),
        (3, new_code_cell("a ="), "cell 4: does not compile"),
        (3, new_code_cell("'\\d'"), "cell 4: does not compile"),
    ],
)
def test_planted_fault_is_found(tmp_path, index, cell, finding):
    cells = good_cells()
    cells[index] = cell
    found = findings(tmp_path, cells)
    assert len(found) == 1
    assert found[0].startswith(f"01_a.ipynb: {finding}")


@pytest.mark.parametrize("count", [14, 46])
def test_number_of_cells_is_bounded(tmp_path, count):
    cells = good_cells()[:14] + [new_markdown_cell("Text") for _ in range(count - 14)]
    assert findings(tmp_path, cells) == [f"01_a.ipynb: {count} cells, not 15 to 45"]


def test_faults_of_the_whole_file_are_found(tmp_path):
    write(tmp_path / "01_a.ipynb", good_cells())
    source = json.loads((tmp_path / "01_a.ipynb").read_text())
    source["metadata"] = {"kernelspec": {"name": "conda", "display_name": "x"}, "papermill": {}}
    (tmp_path / "02_b.ipynb").write_text(json.dumps(source))
    source["cells"][4]["surprise"] = 1
    (tmp_path / "03_c.ipynb").write_text(json.dumps(source))
    (tmp_path / "04_d.ipynb").write_text("{")
    found = check_notebook_sources(tmp_path)
    assert found[0] == "02_b.ipynb: the kernel is 'conda', not 'python3'"
    assert found[1].startswith("02_b.ipynb: the metadata name no language")
    assert found[2].startswith("02_b.ipynb: holds papermill's metadata")
    assert found[3].startswith("03_c.ipynb: cell 5: not valid in a notebook")
    assert found[4].startswith("04_d.ipynb: not a notebook, its text is not JSON")
    assert len(found) == 5


def test_folder_without_notebooks_does_not_pass(tmp_path):
    with pytest.raises(UserError, match="no notebook"):
        check_notebook_sources(tmp_path)
