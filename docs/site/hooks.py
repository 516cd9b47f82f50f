"""The site shows the repository's own pages under their own paths, as a Git host does.

Links are relative to the file that holds them. What a page leads to beside other pages (a picture,
a script, a preset) goes along into the site; a link that leads nowhere, or out of the repository,
is an error, and so is a page that the navigation does not name.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "factory/models/wbc_base/README.md")
"""Beside those of docs/."""
LOOK = ("factory/measure/templates/page.css", "docs/site/site.css")
"""Style sheets: that of the pages that commands write, and what a site has beside it."""


def slug(title: str, separator: str = "-") -> str:
    """Return the anchor of a title as Git hosts name it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", separator)


def links(text: str) -> Iterator[str]:
    """Yield where the links and pictures of a page lead, those in code blocks left out."""
    fenced = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in fenced.splitlines() if not line.startswith("    ")]
    yield from re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", "\n".join(lines)))


def sources() -> list[str]:
    """Return the paths of all that goes into the site: pages, and what they lead to."""
    pages = [*PAGES, *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]
    found = dict.fromkeys((*pages, *LOOK))
    for page in pages:
        for link in links((ROOT / page).read_text()):
            target = (ROOT / page).parent / link.partition("#")[0]
            if target.is_file() and target.resolve().is_relative_to(ROOT):
                found[str(target.resolve().relative_to(ROOT))] = None
    return list(found)


def on_config(config: Any) -> Any:
    """Name anchors as Git hosts do."""
    config.mdx_configs["toc"] = {"slugify": slug, "toc_depth": "2-3"}
    return config


def on_files(files: Files, config: Any) -> Files:
    """Put what `sources` names in place of the files of docs/; the theme's own stay."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    own = [File.generated(config, path, abs_src_path=str(ROOT / path)) for path in sources()]
    return Files([*theme, *own])


def on_page_content(html: str, **_: Any) -> str:
    """Let wide tables and code scroll on a phone, with keys too."""
    html = html.replace("<pre>", '<pre tabindex="0">')
    return html.replace("<table>", '<div class="wide" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )
