"""Protects `pip install`: whatever the library imports is declared in pyproject.toml and pinned in requirements.txt."""

from __future__ import annotations

import ast
import re
import sys

from conftest import ROOT

IMPORTED_AS = {"PIL": "pillow", "bs4": "beautifulsoup4", "yaml": "pyyaml"}
"""Packages whose distribution has another name."""


def imported_packages() -> set[str]:
    """Distributions that any module of the library imports, at its top or inside functions."""
    found = set()
    for path in (ROOT / "sgre_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return {IMPORTED_AS.get(name, name).lower() for name in found - set(sys.stdlib_module_names)}


def names_in(lines: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines if re.match(r"\w", line)}


def test_what_is_imported_is_declared():
    # Read as text: Python 3.10 has no TOML reader.
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = names_in(re.findall(r'"([\w.-]+[^"]*)"', text))
    assert imported_packages() <= declared
    assert {"torchvision", "ipykernel"} <= declared  # timm's, and the notebooks'


def test_what_is_imported_is_pinned():
    pinned = names_in((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert imported_packages() - pinned <= {"tomli"}  # Python 3.10's
