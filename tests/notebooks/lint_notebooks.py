"""The house rules for our notebooks' sources, as a check."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from sgre_lib.base.errors import UserError
from sgre_lib.reports.convert import has_tag, read_notebook


def check_notebook_sources(folder: Path) -> list[str]:
    """Return what is wrong with the notebooks of a folder by our own rules, a line each; an empty list is a pass.

    The rules: valid, without traces of a run, kernel python3, a title first, one cell of parameters that are plain
    literals with comments, 15 to 45 cells, at most two code cells in a row, short cells that compile and leave classes
    and long functions to the library, variables under their own names, no silenced warnings, nothing that works on one
    machine only, and no skipped heading level. A folder without notebooks raises UserError.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise UserError(f"{folder}: no notebook (*.ipynb) to check")
    return [f"{path.name}: {finding}" for path in paths for finding in _check_notebook(path)]


def _check_notebook(path: Path) -> Iterator[str]:
    try:
        notebook = read_notebook(path)
    except UserError as error:
        yield str(error).removeprefix(f"{path}: ")
        return
    cells = list(enumerate(notebook.cells, 1))
    kernel = notebook.metadata.get("kernelspec", {})
    if kernel.get("name") != "python3":
        yield f"the kernel is {kernel.get('name')!r}, not 'python3'"
    if not (kernel.get("language") or notebook.metadata.get("language_info", {}).get("name")):
        yield "the metadata name no language: papermill refuses the notebook"
    if "papermill" in notebook.metadata:
        yield "holds papermill's metadata: this is an executed copy"
    if not 15 <= len(cells) <= 45:
        yield f"{len(cells)} cells, not 15 to 45"
    tagged = [number for number, cell in cells if cell.cell_type == "code" and has_tag(cell, "parameters")]
    if len(tagged) != 1:
        yield f"{len(tagged)} code cells are tagged parameters, not one"
    level = in_a_row = 0
    for number, cell in cells:
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        if in_a_row == 3:
            yield f"cell {number}: the third code cell in a row: a sentence between them says what for"
        if number == 1 and not (cell.cell_type == "markdown" and cell.source.startswith("# ")):
            yield "cell 1: not a Markdown cell that starts with '# ' and the title"
        if "papermill" in cell.metadata:
            yield f"cell {number}: holds papermill's metadata"
        if cell.cell_type == "markdown":
            for deeper, text in headings(cell.source):
                if level and deeper > level + 1:
                    yield f"cell {number}: heading '{text}' jumps from level {level} to {deeper}"
                level = deeper
        elif cell.cell_type == "code":
            for finding in _check_code_cell(cell):
                yield f"cell {number}: {finding}"


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


def _check_code_cell(cell: nbformat.NotebookNode) -> Iterator[str]:
    if cell.outputs:
        yield "holds outputs"
    if cell.execution_count is not None:
        yield f"holds the execution count {cell.execution_count}"
    lines = len(cell.source.splitlines())
    if lines > 25:
        yield f"{lines} lines of code, more than 25"
    python = TransformerManager().transform_cell(cell.source)  # `%magic` and `!command` become calls
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an invalid escape is a warning in some versions, an error in others
            compile(python, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            tree = ast.parse(python)
    except (SyntaxError, ValueError) as error:
        yield f"does not compile ({error})"
        return
    for node in ast.walk(tree):
        yield from _check_node(node)
    if has_tag(cell, "parameters"):
        yield from _check_parameters(python, tree)


def _check_node(node: ast.AST) -> Iterator[str]:
    """Yield the fault of one piece of code, if it is one that belongs in the library or nowhere."""
    if isinstance(node, ast.ClassDef):
        yield f"class {node.name} belongs in the library"
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > 10:
            yield f"function {node.name} has {lines} lines, more than 10: it belongs in the library"
    elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
        yield "uses sys.path: install the package instead"
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func).rpartition(".")[2]
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        ignores = any(isinstance(value, ast.Constant) and value.value == "ignore" for value in arguments)
        if called in ("globals", "locals"):
            yield f"looks variables up with {called}(): name them"
        if called == "filterwarnings" or (called == "simplefilter" and ignores):
            yield f"silences warnings with {called}"
    elif (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.match(r"/(work|home|root|tmp)(/|$)", node.value)
    ):
        yield f"names a path of one machine: {node.value!r}"


def _check_parameters(python: str, tree: ast.Module) -> Iterator[str]:
    """Yield each statement that papermill could not replace from a file, or could not explain."""
    tokens = tokenize.generate_tokens(io.StringIO(python).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for statement in tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Name) or len(statement.targets) > 1:
            yield f"parameters: line {statement.lineno} is not `name = literal`"
            continue
        try:
            value = ast.literal_eval(statement.value)
            # Equal after a round trip through JSON, as papermill passes it: no tuple, set, bytes or number as a key.
            plain = json.loads(json.dumps(value)) == value
        except (ValueError, TypeError):
            plain = False
        if not plain:
            yield f"parameters: {target.id} is not a plain literal"
        if not commented & {statement.lineno, statement.end_lineno}:
            yield f"parameters: {target.id} has no trailing comment"


def main(arguments: list[str] | None = None) -> int:
    """`python tests/notebooks/lint_notebooks.py FOLDER`: findings, a line each; status 1 where there are any."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    findings = check_notebook_sources(folder)
    print("\n".join(findings) or f"the notebooks in {folder} keep the rules")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
