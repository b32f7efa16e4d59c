"""HTML fragments made fit for a page that fetches nothing: what is unsafe goes, what readers need is added."""

import base64
import logging
import mimetypes
import os
import re
from collections.abc import Callable, Mapping
from itertools import chain, count, zip_longest
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

log = logging.getLogger(__name__)

# What runs something or makes a browser ask for another file.
UNSAFE_TAGS = ["script", "link", "meta", "base", "iframe", "object", "embed", "audio", "video"]
UNSAFE_ATTRIBUTES = ("srcset", "poster", "background", "action", "formaction", "ping")

NUMBER = re.compile(r"([-+\u2212±]?\.?\d[\W\d_]*([^\W\d_]{1,8}[\W\d_]*)?|nan)$", re.IGNORECASE)
"""The text of a cell with a number: it begins with one, and has no more than a word, such as a unit."""

Links = Mapping[str, str] | Callable[[str], str | None]
"""Where links to local files lead: from a file's path, as written in the notebook but without %-signs and anchor, to an
address; for None, or a path that the mapping does not have, the link becomes plain text."""


def tidy_html(fragment: str, folder: Path, links: Links | None, ids: set[str]) -> str:
    """A fragment of a page with nothing to fetch or run, with unique ids, alt texts and tables that scroll.

    folder: of the notebook, whose pictures may be put into the page. links: see `Links`; None leaves them. ids: those
    that the page has; the fragment's are added. What is left out is logged as a warning. Links to click on stay.
    """
    soup = BeautifulSoup(fragment, "html.parser")
    for image in soup.find_all("img"):
        _tidy_picture(image, folder.resolve())
    _remove_unsafe(soup)
    for link in soup.find_all("a", href=True):
        _tidy_link(link, links.get if isinstance(links, Mapping) else links)
    for tag in soup.select("[id], h1, h2, h3, h4, h5, h6"):
        # A heading's is the one that JupyterLab gives it, so that links within a notebook work in both places.
        wanted = tag.get("id") or "-".join(tag.get_text().split()) or "section"
        names = chain([wanted], (f"{wanted}-{number}" for number in count(2)))
        tag["id"] = next(name for name in names if name not in ids)
        ids.add(tag["id"])
    for table in soup.find_all("table"):
        _tidy_table(table)
    return str(soup)


def _tidy_picture(image: Tag, folder: Path) -> None:
    """Put a picture that lies in the notebook's folder, or below it, into the tag; leave its alt text of another.

    Not by nbconvert's embed_images, which closes each inline tag at once: <b>bold</b> becomes <b></b>bold.
    """
    source = image.get("src", "")
    if source[:5].lower() != "data:":
        kind, path = mimetypes.guess_type(source)[0] or "", folder / unquote(source)
        if kind.startswith("image/") and os.path.isfile(path) and path.resolve().is_relative_to(folder):
            image["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        else:
            log.warning("the picture %s is left out: it is not inside the notebook", source)
            image.replace_with(f"[picture not included: {image.get('alt') or 'no description'}]")
    if image.parent and not image.has_attr("alt"):
        log.warning("a picture in Markdown or HTML has no alt text")
        image["alt"] = ""


def _remove_unsafe(soup: BeautifulSoup) -> None:
    """Remove scripts and everything that would make a browser ask for another file."""
    for tag in soup.find_all(UNSAFE_TAGS):
        log.warning("an output's <%s> is left out of the report", tag.name)
        tag.extract()
    for style in soup.find_all("style"):
        # pandas writes its own table style as <style scoped>, which browsers now apply to the whole page.
        if style.has_attr("scoped") or re.search(r"@import|url\(", style.get_text(), re.IGNORECASE):
            style.extract()
    for tag in soup.find_all(True):
        for name, value in list(tag.attrs.items()):
            value = str(value).strip().lower()
            unsafe = name.startswith("on") or name in UNSAFE_ATTRIBUTES or (name == "style" and "url(" in value)
            if name in ("src", "href", "xlink:href") and (tag.name, name) != ("a", "href"):
                unsafe = not value.startswith("data:" if name == "src" else ("data:", "#"))
            if unsafe:
                del tag[name]


def _tidy_link(link: Tag, find: Callable[[str], str | None] | None) -> None:
    """Lead a link to a local file where `find` says; a link that may not stay leaves its text."""
    try:
        parts = urlsplit(link["href"].strip())
    except ValueError:  # no address at all
        parts = urlsplit("invalid:")
    local = parts.scheme in ("", "file") and not parts.netloc and parts.path
    stays = local or parts.scheme in ("", "http", "https", "mailto")  # an anchor alone has none
    if local and find is not None:
        target = find(unquote(parts.path).replace("\0", ""))
        stays = target is not None
        link["href"] = "#".join(filter(None, (target, parts.fragment)))
    if not stays:
        link.unwrap()


def _tidy_table(table: Tag) -> None:
    """Mark a table's headers and number columns, and wrap it in a box that scrolls where the screen is narrow."""
    del table["border"]
    for header in table.find_all("th", scope=False):
        header["scope"] = "col" if header.find_parent("thead") else "row"
    rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
    if not table.select("[colspan], [rowspan]"):  # else a position in a row is no column
        for column in zip_longest(*rows):
            cells = [cell for cell in column if cell is not None]
            texts = {cell.get_text().strip() for cell in cells if cell.name == "td"}
            texts -= {"", "-", "\u2013", "\u2014"}  # they say "none", in a column of numbers too
            if texts and all(map(NUMBER.match, texts)):
                for cell in cells:
                    cell["class"] = [*cell.get("class", []), "number"]
    name = table.caption.get_text(" ", strip=True) if table.caption else "Table"
    table.wrap(Tag(name="div", attrs={"class": "table", "role": "group", "tabindex": "0", "aria-label": name}))
