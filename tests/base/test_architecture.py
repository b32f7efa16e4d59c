"""Protects the house: packages import one way, in the order of the architecture page, and rooms stay small."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LIBRARY = ROOT / "sgre_lib"
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY or path.stem == "commands")


def module_name(path: Path) -> str:
    """`training.loop` for sgre_lib/training/loop.py; a package's own name for its __init__.py."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def documented_order() -> list[str]:
    """Packages as the architecture page lists them, from the top to the ground."""
    text = (LIBRARY / "README.md").read_text(encoding="utf-8")
    block = text[text.index("commands.py") :].split("```")[0]
    return [re.match(r"[a-z_]+", line)[0] for line in block.splitlines() if re.match(r"[a-z_]+(/|\.py) ", line)]


def imports_of(path: Path) -> set[str]:
    """Modules of the library that a file imports, at its top or inside functions, with relative names resolved."""
    here, found = path.relative_to(LIBRARY).parent.parts, set()
    known = {module_name(other) for other in MODULES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else [])]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sgre_lib":
            base = node.module.split(".")[1:]
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("sgre_lib.") for alias in node.names if alias.name.startswith("sgre_lib")}
            continue
        else:
            continue
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found.add(whole if whole in known else ".".join(base))
    return found - {""}


def test_the_page_lists_every_package():
    there = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()}
    assert there | {"commands"} == set(documented_order())


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path):
    order = documented_order()
    own = module_name(path).split(".")[0]
    for imported in imports_of(path):
        package = imported.split(".")[0]
        assert order.index(package) >= order.index(own), (
            f"{module_name(path)} imports {imported}, which stands above it"
        )


def test_no_circle_inside_a_package():
    graph = {module_name(path): imports_of(path) - {module_name(path)} for path in MODULES if path.stem != "__init__"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_a_room_can_be_surveyed():
    """At most 13 entries in the package, 12 modules in a folder, 400 lines in a module and 60 in a function."""
    assert len(documented_order()) <= 13
    for folder in {path.parent for path in MODULES} - {LIBRARY}:
        assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= 12, folder
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_importing_the_package_is_light():
    code = (
        "import sys, sgre_lib; sgre_lib.TrainSettings; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_public_name_is_there():
    import sgre_lib

    for name in sgre_lib.__all__:
        assert getattr(sgre_lib, name) is not None
