"""The site of README and docs: `make docs` builds it, and what it needs lies in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.accessible import faults
from tests.fakes.browser import browser, needs_chromium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: dead links, dead anchors, orphan pages fail."""
    folder = tmp_path_factory.mktemp("site")
    asked = ["-m", "mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml"]
    done = subprocess.run(
        [sys.executable, *asked, "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> dict[str, str]:
    return {str(page.relative_to(site)): page.read_text() for page in site.rglob("*.html")}


def test_every_page_of_docs_is_in_the_site_and_its_menu(site: Path) -> None:
    start = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        path = str(page.relative_to(ROOT).with_suffix(".html"))
        assert (site / path).is_file()
        assert f'href="{path}"' in start


def test_what_a_page_shows_and_links_to_lies_in_the_site_and_nothing_is_fetched(site: Path) -> None:
    for name, html in pages(site).items():
        for link in re.findall(r'(?:src|href)="([^"#?]+)', html):
            if link.startswith("data:"):
                continue
            own = not re.match(r"[a-z]+:", link)
            assert own, (name, link)
            assert ((site / name).parent / link).is_file(), (name, link)
    assert "docs/studies/knowledge_travels.svg" in pages(site)["index.html"]


def test_anchors_are_those_of_a_git_host(site: Path) -> None:
    html = (site / "docs" / "study.html").read_text()
    assert 'id="how-many-drawn-how"' in html
    assert 'href="#how-many-drawn-how"' in html


def test_a_block_of_code_and_a_list_are_no_running_text(site: Path) -> None:
    """A list wants an empty line before it here, a block behind a list a fence everywhere."""
    for name, html in pages(site).items():
        text = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
        assert not re.findall(r"^(?:[-*] |\d+\. |\|)", text, re.MULTILINE), name
        assert not re.findall(r"<p>(?:factory|make|python) ", text), name


@pytest.mark.slow
@needs_chromium
def test_pages_can_be_read_at_two_widths_and_in_two_themes(site: Path) -> None:
    shown = ["index", "docs/cost", "docs/draw", "docs/studies/does_it_help", "CHANGELOG"]
    with browser() as tab:
        assert faults(tab, [(site / f"{name}.html").as_uri() for name in shown]) == {}
