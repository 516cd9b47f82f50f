"""The bench beside peers: its scripts run where only a peer is installed, and ours runs here."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.bench.peers import publish
from tests.bench.peers.publish import WRITERS, WRITERS_OF_PEERS, make_pngs

PEERS = {"datasets", "webdataset", "daft", "ray", "deltalake", "pyarrow"}


def imported(script: Path) -> set[str]:
    """Return the packages that a script imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("script", sorted({writer.script for writer in WRITERS_OF_PEERS}))
def test_a_peers_script_needs_its_peer_and_nothing_of_ours(script: str) -> None:
    others = imported(WRITERS / script) - set(sys.stdlib_module_names) - {"source"}
    assert others
    assert others <= PEERS
    assert imported(WRITERS / "source.py") <= set(sys.stdlib_module_names)


def test_without_the_peers_python_ours_alone_is_measured_and_it_is_said() -> None:
    done = CliRunner().invoke(
        publish.main, ["--images", "50", "--rounds", "1", "--kill-images", "0"]
    )
    assert done.exit_code == 0, done.output
    assert "peers are skipped: no --peers-python" in done.output
    assert "| our sink |" in done.output
    assert "Daft" not in done.output


def test_what_our_sink_holds_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(WRITERS)
    writer, source = (importlib.import_module(name) for name in ("factory_sink", "source"))
    make_pngs(tmp_path / "pngs", size_px=8, count=3)
    handed = []
    for images in (512, 768):
        progress = tmp_path / f"{images}"
        asked = source.Source(str(tmp_path / "pngs"), str(progress), images)
        writer.write(asked, tmp_path / "out", "sink")()
        handed.append(progress.stat().st_size)
    assert handed == [512, 256]
    found = writer.ids(tmp_path / "out", "sink")
    assert len(found) == len(set(found)) == 768
