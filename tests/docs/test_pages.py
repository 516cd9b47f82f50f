"""What docs/architecture.md and CONTRIBUTING.md name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def named(text: str) -> set[str]:
    """Return the paths of a page, `a/{b,c}.py` as two."""
    found = set()
    for path in re.findall(r"`((?:factory|catalog|tests|docs|jobs|cluster)/[\w/{},.]+)`", text):
        start, _, rest = path.partition("{")
        middle, _, end = rest.partition("}")
        found |= {start + one + end for one in middle.split(",")}
    return found


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    paths = named((ROOT / page).read_text())
    assert len(paths) >= 5
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
