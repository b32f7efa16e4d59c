"""Protects the README files and the citation: links lead somewhere, `sgre` takes every command, both cite one paper."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from sgre_lib import __version__
from sgre_lib.commands import PARSER

READMES = [
    path
    for pattern in ("README.md", "*/README.md", "*/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if path.relative_to(ROOT).parts[0] in ("README.md", "data", "experiments", "notebooks", "sgre_lib", "tests")
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown viewer gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[list[str]]:
    """The words after `sgre` or `-m sgre_lib` of every command line in the code blocks."""
    found = []
    for line in "".join(code_blocks(text)).replace("\\\n", " ").splitlines():
        for command in re.findall(r"(?:^|&& |^torchrun .*-m |^python -m )(sgre(?:_lib)? .*?)(?= &&|$)", line):
            found.append(shlex.split(command, comments=True)[1:])
    return found


def test_every_page_is_looked_at():
    assert {"README.md", "data/README.md", "experiments/README.md", "notebooks/README.md", "sgre_lib/README.md"} <= set(
        map(name, READMES)
    )


@pytest.mark.parametrize("page", READMES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        address, _, anchor = target.partition("#")
        file = page.parent / address if address else page
        assert file.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", READMES, ids=name)
def test_commands_are_understood(page):
    parser = PARSER
    for words in commands(page.read_text(encoding="utf-8")):
        parser.parse_args(words)  # raises UserError, which names the mistake


def test_the_list_of_modules_is_whole():
    """The page that says where everything is names every module, and no other."""
    text = (ROOT / "sgre_lib" / "README.md").read_text(encoding="utf-8")
    listed, package = set(), ""
    for line in code_blocks(text[text.index("## Modules") :])[0].splitlines():
        package = line if line.endswith("/") else package
        listed |= {package + line.split()[0]} if line != package else set()
    folder = ROOT / "sgre_lib"
    there = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.py")}
    assert listed == {name for name in there if not name.endswith("__init__")}


def test_a_wrong_link_and_a_wrong_command_would_be_found(tmp_path):
    assert "no-such-heading" not in anchors(ROOT / "README.md")
    assert commands("```\na && sgre train --data x  # why\ntorchrun -m sgre_lib report\n```\n`sgre no`") == [
        ["train", "--data", "x"],
        ["report"],
    ]


def test_the_main_page_has_commands_of_every_kind():
    verbs = {words[0] for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"prepare", "embed", "train", "evaluate", "visualize", "predict", "export", "reproduce", "report"} <= verbs


def test_the_citation_file_and_the_page_cite_the_same_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__
    paper, page = citation["preferred-citation"], (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"type", "title", "authors"} <= set(paper)
    for names in (citation["authors"], paper["authors"]):
        assert len({str(one) for one in names}) == len(names)
    entry = page[page.index("@article") :]
    for value in (paper["title"], paper["journal"], f"{paper['start']}--{paper['end']}", str(paper["year"])):
        assert f"{{{value}}}" in entry
    assert paper["url"] in page
