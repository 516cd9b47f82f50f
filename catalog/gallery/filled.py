"""What pages are made of: templates, which escape everything they print, and static files."""

import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalog.gallery.details import card_html, facts, shown
from catalog.gallery.listing import in_address, key_of
from factory.measure.page import TEMPLATES as PAGE_STYLE
from factory.terminal import escaped

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
STATIC = {path.name: path.read_bytes() for path in (HERE / "static").iterdir()}
"""By name; the style sheet with what all pages share before it."""
STATIC["gallery.css"] = (PAGE_STYLE / "page.css").read_bytes() + STATIC["gallery.css"]


def _templates() -> Environment:
    """Return the templates: everything that they print is escaped, nothing may be left out.

    Characters that act on a terminal are written out: pages are saved, and looked at with others.
    """
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_printed,
    )  # fmt: skip
    found.filters |= {"shown": shown, "card": card_html, "facts": facts, "in_address": in_address}
    found.globals |= {"address": lambda place, row: place + in_address(key_of(row))}
    digests = {n: hashlib.sha256(data).hexdigest()[:12] for n, data in STATIC.items()}
    found.globals["static"] = lambda name: f"/static/{name}?v={digests[name]}"
    return found


def _printed(value: object) -> object:
    return escaped(value) if type(value) is str else value  # what a macro gives is printed already


TEMPLATES = _templates()
