"""What a training left behind is used as it was made or not at all, by one training at a time."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from factory.errors import ConfigError, FactoryError, ModelError, OutputError
from factory.finetune import run
from factory.finetune.stages import SUMS, check_seal, claimed, new_stage
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split, load_split
from tests.fakes.pairs import write_pairs
from tests.finetune import test_class_conditional, test_pairs, test_run

Train = Callable[[Path], object]


def trained(config: object, dataset: RealDataset, split: Split, output: Path) -> object:
    return run.finetune_here(run.prepare(config, dataset, split, output), tell=lambda _: None)


@pytest.fixture
def text(base: Generator, dataset: RealDataset, split: Split) -> Train:
    config = test_run.config(base, autoencoder={"steps": 1, "batch_size": 2}, only=["monocyte"])
    return partial(trained, config, dataset, split)


@pytest.fixture
def from_scratch(dataset: RealDataset, split: Split) -> Train:
    return partial(trained, test_class_conditional.config(), dataset, split)


@pytest.fixture
def pairs(tmp_path: Path) -> Train:
    data, file = write_pairs(tmp_path / "real")
    return partial(trained, test_pairs.config(2), open_dataset(data), load_split(Path(file)))


STAGES = {
    "text": [
        "latents-*/latents.safetensors",
        "images-*.safetensors",
        "targets/all/checkpoints/step-*/*.safetensors",
        "base-*/vae/diffusion_pytorch_model.safetensors",
        "autoencoder-*/diffusion_pytorch_model.safetensors",
    ],
    "from_scratch": ["autoencoder-*/diffusion_pytorch_model.safetensors"],
    "pairs": ["images-*.safetensors", "targets/all/checkpoints/step-*/*.safetensors"],
}


@pytest.mark.parametrize("method", STAGES)
def test_a_stage_whose_file_was_changed_is_named_and_not_used(
    method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    train, output = request.getfixturevalue(method), tmp_path / "run"
    train(output)
    for changed in STAGES[method]:
        if method == "text" and changed.startswith("autoencoder"):  # it was killed before the base
            next(output.glob("base-*")).rename(tmp_path / "lost")
        *_, path = sorted(output.glob(changed))
        whole = path.read_bytes()
        content = bytearray(whole)
        content[-5] ^= 1
        path.write_bytes(content)
        with pytest.raises(FactoryError, match=r"was changed|cannot be read") as raised:
            train(output)
        assert path.name in str(raised.value) or path.parent.name in str(raised.value)
        assert "Delete" in str(raised.value)
        path.write_bytes(whole)


def test_a_sealed_stage_may_gain_files_and_one_without_sums_is_an_older_one(tmp_path: Path) -> None:
    with new_stage(tmp_path / "stage") as work:
        (work / "a.txt").write_text("a")
    (tmp_path / "stage" / "beside.npy").write_text("a cache")
    check_seal(tmp_path / "stage")
    (tmp_path / "stage" / "a.txt").unlink()
    with pytest.raises(ModelError, match=r"a\.txt is gone"):
        check_seal(tmp_path / "stage")
    (tmp_path / "stage" / SUMS).unlink()
    check_seal(tmp_path / "stage")


HOLDS = """
    import sys
    from pathlib import Path
    from factory.finetune.stages import claimed

    with claimed(Path(sys.argv[1]), "text"):
        print("mine", flush=True)
        sys.stdin.read()
"""


def test_a_second_training_into_one_output_is_refused_until_the_first_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"mine\n"
        with pytest.raises(OutputError, match=rf"another training writes into .*{first.pid}"):
            claimed(tmp_path, "text").__enter__()
        first.kill()  # however it ends, the place is free
    with claimed(tmp_path, "text"):
        pass


def test_an_output_of_another_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"config": {"method": "pairs"}}))
    with pytest.raises(ConfigError, match=r"a training of method 'pairs', this one is 'text'"):
        claimed(tmp_path, "text").__enter__()
    with claimed(tmp_path, "pairs"):
        pass
