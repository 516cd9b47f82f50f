"""The bench beside peers: its scripts run where only a peer is installed, and ours runs here."""

import ast
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog
from tests.bench.peers import publish
from tests.bench.peers.publish import OUR_WRITER, WRITERS, WRITERS_OF_PEERS, Bench, make_pngs

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


def test_what_our_sink_holds_is_not_asked_for_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None)
    make_pngs(tmp_path / "pngs", size_px=8, count=3)
    runs = [bench.run(OUR_WRITER, tmp_path / "out", images) for images in (512, 768)]
    assert [run.handed for run in runs] == [512, 256]
    found = Catalog(tmp_path / "out" / "data").samples().to_table(columns=["image_id"])
    assert len(found) == len(found["image_id"].unique()) == 768
