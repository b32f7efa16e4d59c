"""Protects the architecture page: every module stands in its table, and imports only from rows above its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from conftest import ROOT

PACKAGE = ROOT / "sgre_lib"


def documented_order() -> dict[str, int]:
    """Module -> row of the table in sgre_lib/README.md."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text[text.index("| module |") :].split("\n\n")[0].splitlines() if line.startswith("| `")]
    return {name.strip("/"): n for n, row in enumerate(rows) for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def imports_of(path) -> set[str]:
    """Modules of the package that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("sgre_lib")):
            module = (node.module or "").removeprefix("sgre_lib").strip(".")
            found |= {module} if module else {alias.name for alias in node.names}
    return found


def test_modules_import_only_from_above():
    order = documented_order()
    for path in PACKAGE.glob("*.py"):
        if path.stem.startswith("__"):
            continue
        assert path.stem in order, f"{path.name} is not on the architecture page"
        for module in imports_of(path):
            above = order.get(module.split(".")[0])
            if above is not None and not (path.stem == "provenance" and module == "distributed"):
                assert above <= order[path.stem], f"{path.stem} imports {module}, which stands below it"


def test_importing_the_package_is_light():
    code = (
        "import sys, sgre_lib; sgre_lib.TrainSettings; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_public_name_is_there():
    import sgre_lib

    for name in sgre_lib.__all__:
        assert getattr(sgre_lib, name) is not None
