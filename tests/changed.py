"""The test files that matter to what was changed, for `make check`.

    python -m tests.changed          # since the last commit, that one included

A test matters to a module that it imports, or whose name it has; a changed test to itself. Modules
that much imports leave it to the tests of their own folder. The command line, README and the
golden files always count.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/test_cli.py", "tests/test_config.py", "tests/laws/test_identity.py")
MOST = 8
"""Importers of one module; with more, those in the folder of its own tests count."""


def changed_files() -> list[str]:
    """Return what differs from the commit before the last one, new files included."""
    found = []
    for command in ("diff --name-only HEAD~1", "ls-files --others --exclude-standard"):
        git = ["git", "-C", str(ROOT), *command.split()]
        found += subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in found if name and (ROOT / name).is_file()]


def relevant_tests(files: Iterable[str]) -> list[str]:
    """Return the test files that matter to `files`, paths below the project's root."""
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    chosen = {ROOT / name for name in ALWAYS}
    for name in files:
        path = ROOT / name
        if path in texts:
            chosen.add(path)
        elif path.suffix == ".py" and path.parts[len(ROOT.parts)] in ("factory", "catalog"):
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            word = re.compile(rf"\b{re.escape(module)}\b")
            readers = [test for test, text in texts.items() if word.search(text)]
            near = ROOT / "tests" / Path(*Path(name.removeprefix("factory/")).parts[:-1])
            if len(readers) > MOST:
                readers = [test for test in readers if test.is_relative_to(near)][:MOST]
            chosen.update(readers)
            chosen.update(test for test in texts if test.name == f"test_{path.name}")
        elif path.suffix in (".md", ".yaml", ".yml", ".toml") or path.name == "Makefile":
            told = ("test_readme.py", "test_presets.py", "test_site.py")
            chosen.update(test for test in texts if test.name in told)
    return sorted(str(test.relative_to(ROOT)) for test in chosen if test in texts)


if __name__ == "__main__":
    print(*relevant_tests(changed_files()))
