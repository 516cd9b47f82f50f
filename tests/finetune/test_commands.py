"""`factory finetune` over a table of a user's own: columns by name, exact files, one command."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from factory.cli import cli
from factory.errors import ConfigError, FactoryError
from factory.finetune.cluster import ClusterConfig
from factory.finetune.meter import Progress, describe
from factory.finetune.methods import load_training, preset_for
from factory.finetune.train import groups_abreast, turn_of
from factory.methods.class_conditional.config import ClassConditionalConfig
from factory.methods.text.config import FinetuneConfig
from factory.models.generator import open_generator
from tests.fakes.tiny import tiny_generator
from tests.finetune.test_class_conditional import TINY

COLUMNS = ["--label", "blastocist", "--image", "IMAGE_NAME", "--group", "embryo"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table as BlastDiffusion's users have: names of files that lie elsewhere, 0/1 outcomes."""
    (tmp_path / "pictures").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(20):
        name = f"oocyte_{number:02}.png"
        noise = rng.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / name)
        rows.append({"IMAGE_NAME": name, "blastocist": number % 2, "embryo": number // 2})
    path = tmp_path / "clinic" / "outcomes.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def factory(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def columns_of(table: Path) -> list[object]:
    return [*COLUMNS, "--root", table.parent.parent / "pictures"]


def split_of(table: Path) -> Path:
    out = table.with_name("split.json")
    done = factory("real", "split", table, *columns_of(table), "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_a_table_of_names_and_outcomes_becomes_a_generator(table: Path) -> None:
    config = table.with_name("mine.yaml")
    tiny = {**TINY, "only": [], "validation": {"draw_every": None}}
    config.write_text(yaml.safe_dump(tiny))
    output, split = table.parent / "run", split_of(table)
    command = ["finetune", "--config", config, "--data", table, "--split", split]
    command += ["--output", output, "--without-ray"]
    done = factory(*command, *columns_of(table))
    assert done.exit_code == 0, done.output
    generator = open_generator(output / "generator")
    assert generator.method == "class_conditional"
    assert generator.class_names == ("0", "1")

    other = factory(*command)  # the columns are part of what was split
    assert isinstance(other.exception, FactoryError)


def test_a_missing_file_is_named_and_no_like_named_one_is_taken(table: Path) -> None:
    split, pictures = split_of(table), table.parent.parent / "pictures"
    (pictures / "oocyte_03.png").rename(pictures / "oocyte_3.png")
    command = ["finetune", "--config", "blastdiffusion_small", "--data", table, "--split", split]
    command += ["--output", table.parent / "run", "--without-ray", *columns_of(table)]
    done = factory(*command)
    assert isinstance(done.exception, FactoryError)
    assert "oocyte_03.png" in str(done.exception)

    skipped = factory("real", "describe", table, *columns_of(table), "--skip-broken")
    assert skipped.exit_code == 0
    assert "broken       1" in skipped.output
    assert "oocyte_03.png" in skipped.output


def test_a_folder_needs_no_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = factory("real", "describe", tmp_path, "--root", tmp_path)
    assert "is a folder, its images start there" in str(done.exception)


def test_the_configuration_says_the_method() -> None:
    assert isinstance(load_training("cytodiff"), FinetuneConfig)
    config = load_training("blastdiffusion", ["training.steps=7"])
    assert isinstance(config, ClassConditionalConfig)
    assert config.training.steps == 7
    with pytest.raises(ConfigError, match=r"unknown method .gan.*Choose one of text"):
        load_training("cytodiff", ["method=gan"])
    with pytest.raises(ConfigError, match=r"unknown key 'unet\.heads'.*Known keys: conditioning"):
        load_training("blastdiffusion", ["unet.heads=3"])
    with pytest.raises(ConfigError, match="unknown key 'unet'"):
        load_training("cytodiff", ["unet.num_attention_heads=3"])


def test_the_default_configuration_follows_from_the_base(tmp_path: Path) -> None:
    assert preset_for([]) == preset_for(["base=wbc-base"]) == "cytodiff_small"
    for folder, channels in {"sd": [320, 640, 1280, 1280], "mine": [128, 192]}.items():
        path = tmp_path / folder / "unet" / "config.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"block_out_channels": channels}))
    assert preset_for([f"base={tmp_path / 'sd'}"]) == "cytodiff"
    assert preset_for([f"base={tmp_path / 'mine'}"]) == "cytodiff_small"
    assert preset_for(["base=owner/stable-diffusion"]) == "cytodiff"


@pytest.mark.slow
def test_the_command_says_what_it_leaves_out_where_its_samples_are_and_what_comes_next(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, split = table.parent / "run", split_of(table)
    base = tiny_generator(table.parent / "base", class_names=("0", "1"))
    command = ["finetune", "--data", table, "--split", split, "--output", output, "--without-ray"]
    command += columns_of(table)
    tiny = ["training.steps=6", "training.batch_size=2", "lora.rank=2", "autoencoder.steps=1"]
    tiny += ["validation.num_inference_steps=1", f"base={base.folder}"]
    for key in tiny:
        command += ["--set", key]
    done = factory(*command)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("configuration cytodiff_small, which fits base ")
    assert any(line.startswith("0: ") and "of the 16 shots asked" in line for line in lines)
    timed = [line for line in lines if ", of all " in line]
    assert {line.partition(",")[0] for line in timed} == {"0 (1 of 2)", "1 (2 of 2)"}
    generator = output.resolve() / "generator"
    assert f"sheet    {generator / 'samples.png'}" in lines
    assert lines[-1].endswith(f"factory generate --set model={generator} --num-images 64")

    one = factory(*command, "--without", "0", "--output", table.parent / "one")
    assert one.exit_code == 0, one.output
    assert open_generator(table.parent / "one" / "generator").class_names == ("1",)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("factory.finetune.run.finetune_here", interrupted)
    stopped = factory(*command, "--output", table.parent / "stopped")
    assert "stopped; the checkpoints stay. Go on with: " in stopped.output


def test_a_training_in_the_output_of_another_method_is_refused(table: Path) -> None:
    output, split = table.parent / "run", split_of(table)
    output.mkdir()
    (output / "plan.json").write_text('{"config": {"method": "pairs"}}')
    command = ["finetune", "--data", table, "--split", split, "--output", output, "--without-ray"]
    refused = factory(*command, *columns_of(table))
    assert "a training of method 'pairs', this one is 'text'" in str(refused.exception)


def test_a_base_from_scratch_is_made_by_a_command_of_its_own(table: Path) -> None:
    config, output = table.with_name("base.yaml"), table.parent / "base"
    length = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "decay_steps": 1}
    stored = {
        "name": "mine",
        "size_px": 16,
        "fractions": {"train": 0.8, "val": 0.2},
        "prompt": {"subject": "{class_name}"},
        "autoencoder": {"components": 4},
        "denoiser": {**length, "channels": [32, 32]},
        "validation": {"draw_every": None},
    }
    config.write_text(yaml.safe_dump(stored))
    command = ["pretrain", "--config", config, "--data", table, "--output", output]
    command += ["--without-ray", *columns_of(table)]
    done = factory(*command)
    assert done.exit_code == 0, done.output
    made = open_generator(output / "generator")
    assert (made.method, made.class_names) == ("text", ("0", "1"))
    assert made.manifest["config"]["denoiser"]["steps"] == 2
    assert "val_loss" in made.manifest["validation"]["all"]
    again = factory(*command, "--export-only")
    assert again.exit_code == 0, again.output
    assert open_generator(output / "generator").model_id == made.model_id
    refused = factory(*command, "--config", "cytodiff")
    assert "cytodiff is no configuration of a base from scratch" in str(refused.exception)


@pytest.mark.parametrize(
    ("abreast", "told"), [(1, [3, 2, 1, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0]), (8, [0] * 4)]
)
def test_the_time_of_the_whole_knows_how_many_train_side_by_side(
    abreast: int, told: list[int]
) -> None:
    targets = ["a", "b", "c", "d"]
    turns = [turn_of({"target": t, "abreast": str(abreast)}, targets) for t in targets]
    assert [turn.later for turn in turns] == told
    assert [turn.number for turn in turns] == [1, 2, 3, 4]
    progress = Progress(
        step=10, steps=40, readings={"loss": 1.0, "gradient_norm": 1.0}, learning_rate=1,
        batch_size=1, seconds=60.0,
    )  # fmt: skip
    whole = 180 + 240 * told[1]
    assert "b (2 of 4), step 10/40: loss 1.0000" in describe(progress, turns[1])
    assert f"ETA 3 min, of all {whole / 60:.0f} min" in describe(progress, turns[1])
    fitting = ClusterConfig(cpus_per_worker=2)
    assert groups_abreast(fitting, {"CPU": 5.0}) == 2
    assert groups_abreast(fitting, {"CPU": 1.0}) == 1
