"""Texts of others (prompts, class names) in Markdown, HTML and CSV, where they must do nothing."""

import re

_MARKUP = re.compile(
    r"(?<=[0-9])\.(?=[0-9])|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])"  # 1.5 and a_b mean nothing as such
    r"|([^\w ,;()-]|_)"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def inert(text: object, *, longest: int = 200) -> str:
    """Return `text` for a Markdown or HTML page: it shows as it is and means nothing.

    Every character that could begin markup becomes a numeric entity, which Markdown takes for text
    wherever it stands. White space and control characters become single spaces.
    """
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    cut = flat if len(flat) <= longest else f"{flat[: longest - 1]}…"
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};" if found[1] else found[0], cut)


def cell(text: str) -> str:
    """Return `text` for a CSV cell: a spreadsheet takes it for text, not for a formula.

    Texts that begin like a formula, or with an apostrophe, get an apostrophe before them; taking
    the first apostrophe away gives every text back.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text
