"""Hostile input, one case each: what it would do, and that it is refused in our own words.

Others stand where their subject is tested: SQL (tests/catalog/test_query.py), names in exports
(tests/catalog/export/test_safe.py), HTML (gallery/test_guard.py, export/test_described.py,
evaluate/test_study.py), pickles (models/test_generator.py), archives (real/test_npz.py), links
(real/test_folders.py), tokens and headers (gallery/test_guard.py).
"""

import io
import os
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from catalog import Catalog
from catalog.place import Place
from factory.config import load_config
from factory.errors import ConfigError, DataError
from factory.models.generator import Generator
from factory.monitor.log import LogRecorder, set_up
from factory.real.images import decode
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute


def png_with(kind: bytes, body: bytes) -> bytes:
    """A picture with one chunk more."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add(kind, body)
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "head"),
    [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")],
)
def test_a_chunk_that_unpacks_to_a_hundred_megabytes_is_not_unpacked(
    kind: bytes, head: bytes
) -> None:
    data = png_with(kind, head + zlib.compress(bytes(10**8), 9))
    tracemalloc.start()
    with suppress(DataError):  # refused, or read without the chunk
        decode(data, name="bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        ("classes: " + "[" * 400 + "]" * 400, "levels deep"),
        ("seed: " + "9" * 5000, "not readable YAML"),
        ("a: 2026-99-99", "not readable YAML"),
        ("x: '" + "y" * 2_000_000 + "'", "characters"),
        ("!!python/object/apply:os.system ['true']", "not readable YAML"),
        ("name: !!python/name:os.system", "not readable YAML"),
        ("num_images: 4\nclasses: {a: '" + "a " * 5000 + "'}", "at most 4096 characters"),
        ("num_images: 4\nnegative_prompt: '" + "a " * 5000 + "'", "at most 4096 characters"),
        ("num_images: 4\nclasses: {a: [" + "b, " * 3 + "'" + "c" * 9999 + "']}", "at most 4096"),
    ],
)
def test_a_configuration_that_swells_or_runs_code_is_refused_in_a_few_words(
    text: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config(GenerateConfig, tmp_path / "job.yaml")
    assert len(str(caught.value)) < 1000


def test_no_secret_of_the_store_reaches_a_row_a_log_or_an_error(
    tiny: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Canaries in the environment and in the options; every byte that was written is searched."""
    options = {"AWS_SECRET_ACCESS_KEY": "canary-one", "AWS_SESSION_TOKEN": "canary-two"}
    for name in ("RAY_AUTH_TOKEN", "HF_TOKEN", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "canary-three")
    set_up("json")
    try:
        config = GenerateConfig(model=str(tiny.folder), num_images=4, batch_size=2, seed=1)
        config = config.model_copy(update={"num_inference_steps": 1})
        run = prepare(config, Place(str(tmp_path / "catalog"), options))
        told = [
            str(progress) for progress in execute(run, stream=draw_here, recorder=LogRecorder())
        ]
    finally:
        set_up("text")
    assert Catalog(tmp_path / "catalog").samples().count_rows() == 4
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    shown = "".join([*told, *capfd.readouterr()])
    assert b"canary" not in b"".join(written)
    assert "canary" not in shown


def test_what_the_shell_writes_is_closed_to_other_users(tmp_path: Path) -> None:
    """Whatever the umask was; the group keeps what it had."""
    command = [sys.executable, "-c", "from factory.cli import main; main()"]
    made = tmp_path / "made"
    for umask in (0o022, 0o002):
        subprocess.run(
            [*command, "real", "smear", "--out", str(made / str(umask)), "-n", "4"],
            check=True,
            umask=umask,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        paths = list((made / str(umask)).rglob("*"))
        assert len(paths) > 4
        for path in paths:
            mode = path.stat().st_mode
            assert mode & 0o007 == 0
            assert mode & 0o040
            assert bool(mode & 0o020) == (umask == 0o002)
