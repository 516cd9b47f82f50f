"""README's section "Your own images" as a stranger types it, in order, on three sets of images.

The commands come out of README; `SHORTER` alone makes them small: a tiny base, two steps. Each ends
with status 0 and with the next command, or a page; what is printed is README's next, or runs too.
"""

import csv
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from factory.cli import cli
from factory.command_line import program
from factory.sample import batches, session, stream
from tests.fakes import strangers
from tests.fakes.readme import JOURNEY, commands, section, unknown
from tests.fakes.tiny import tiny_generator

pytestmark = pytest.mark.ray

SHORTER = {
    # how a command of README begins: what is typed behind it here
    "finetune --config pairs_small": "--without-ray --set size_px=16"
    " --set network.block_out_channels=[8,16] --set network.norm_num_groups=4"
    " --set network.attention_head_dim=8"
    " --set training.steps=4 --set training.batch_size=4 --set validation.num_inference_steps=1",
    "finetune": "--without-ray --set base={base} --set training.steps=2 --set training.batch_size=2"
    " --set lora.rank=2 --set autoencoder.steps=1 --set validation.num_inference_steps=1",
    "generate": "--num-images 40 --set num_inference_steps=2 --set batch_size=20 --set gates=null",
    "evaluate --config evaluate_mask_probe": "--without-ray --set seeds=[0,1]"
    " --set learner.backbone=colours --set learner.size_px=32",
    "evaluate": "--without-ray --set seeds=[0,1] --set learner.size_px=32",
    "sweep": "--set trials=1 --set start=[] --set seeds=[0] --set final_seeds=[0,1]"
    " --set learner.size_px=32"
    " --set generate.num_images=40 --set generate.num_inference_steps=2 --set generate.gates=null"
    " --set 'space={{arm.ratio: {{choices: [0.5]}}}}' --set learner.backbone=colours"
    # the tests' common Ray stands where it was started, not in the stranger's folder
    " --catalog {home}/my-catalog --set generate.model={home}/runs/mine/generator",
}
SERVERS = {"gallery"}
"""Commands that go on until they are stopped."""
STORY = commands(section(JOURNEY))


def verb(words: Sequence[str]) -> str:
    """Return 'real split' of the words of a command."""
    return " ".join(words[: 1 + isinstance(cli.commands[words[0]], click.Group)])


class Stranger:
    """Somebody in a folder of images who types one command after another."""

    def __init__(self, base: Path | None) -> None:
        """`base`: the small generator that stands for wbc-base; None: nothing is shortened."""
        self._base, self._runner = base, CliRunner()

    def types(self, words: Sequence[str]) -> list[list[str]]:
        """Run a command as it stands; return those that it proposes at its end.

        What is proposed exists, and the output ends with it or with a page that lies there.
        """
        done = self._runner.invoke(cli, list(words))
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}{done.exception!r}"
        lines = done.output.splitlines()
        told = [line.removeprefix("next").strip() for line in lines]
        called = f"{program()} "
        proposed = [shlex.split(t.removeprefix(called)) for t in told if t.startswith(called)]
        label, _, page = lines[-1].partition(": ")
        assert told[-1].startswith(called) or (label == "page" and Path(page).is_file()), lines[-3:]
        assert [list(unknown(words)) for words in proposed] == [[] for _ in proposed]
        return proposed

    def follows(self, story: Sequence[Sequence[str]]) -> None:
        """Type a story, and of what is proposed on the way all that is not its next step."""
        for number, words in enumerate(story):
            proposed = self.types(self._short(words))
            after = verb(story[number + 1]) if number + 1 < len(story) else ""
            if after in map(verb, proposed):
                continue
            for other in proposed:
                if verb(other) not in SERVERS:
                    assert self._runner.invoke(cli, other).exit_code == 0, shlex.join(other)

    def _short(self, words: Sequence[str]) -> list[str]:
        text = f"{shlex.join(words)} "
        if self._base is None:
            return list(words)
        for start, more in SHORTER.items():
            if text.startswith(f"{start} "):
                return [*words, *shlex.split(more.format(base=self._base, home=Path.cwd()))]
        return list(words)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None) -> Path:
    """A folder to work in, where images are drawn in this process; searches run on Ray as ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stream, "stream_batches", batches.draw_here)
    monkeypatch.setattr(session, "ray_session", _session)
    return tmp_path


def _session(*_: object, **__: object) -> "nullcontext[None]":
    """Stand for the Ray that is there already."""
    return nullcontext()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that knows none of the strangers' classes."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    return tiny_generator(folder, class_names=("a", "b", "c")).folder


MASKED = next(n for n, words in enumerate(STORY) if "glands" in words)
"""README's first command about images with masks."""
PATIENTS = ("1", "3", "4", "7", "10", "11")
"""Of the glands, those with seven images or more."""


def test_cells_in_class_folders_one_class_of_two(home: Path, base: Path) -> None:
    strangers.write_cells(home / "my-images")
    Stranger(base).follows(STORY[:MASKED])


def test_glands_whose_masks_number_them_of_six_patients(home: Path, base: Path) -> None:
    strangers.write_glands(home / "glands")
    Stranger(base).follows(STORY[MASKED:])


def test_fourteen_embryos(home: Path, base: Path) -> None:
    strangers.write_embryos(home / "my-images")
    Stranger(base).follows([words for words in STORY[:MASKED] if words[0] != "sweep"])


@pytest.mark.slow
def test_the_whole_length_on_cells_of_another_microscope(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours: what README says of one's own images, unshortened but for the number of trials."""
    monkeypatch.chdir(tmp_path)
    most = {"basophil": 1, "eosinophil": 2, "lymphocyte": 39, "monocyte": 36, "neutrophil": 97}
    for name, count in most.items():
        for file in sorted((shared / "data/wbc_seg1/images" / name).iterdir())[:count]:
            (tmp_path / "my-images" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "my-images" / name)
    thin = {
        "finetune": ["--without", "basophil", "--without", "eosinophil"],
        "evaluate": ["--set", "without=[basophil, eosinophil]"],
        "sweep": ["--set", "without=[basophil, eosinophil]", "--set", "trials=3"],
    }
    Stranger(None).follows([[*w, *thin.get(w[0], [])] for w in STORY[:MASKED]])


@pytest.mark.slow
def test_the_whole_length_on_glands_of_six_patients(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours, likewise."""
    monkeypatch.chdir(tmp_path)
    root, chosen = shared / "data/glas", Counter[str]()
    with (root / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["patient"] in PATIENTS]
    kept = []
    for row in rows:
        chosen[row["patient"]] += 1
        if chosen[row["patient"]] <= 42 // len(PATIENTS):
            kept.append({key: row[key] for key in ("file", "class", "mask", "patient")})
    for row in kept:
        for name in (row["file"], row["mask"]):
            (tmp_path / "glands" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, tmp_path / "glands" / name)
    with (tmp_path / "glands/metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    Stranger(None).follows(STORY[MASKED:])
