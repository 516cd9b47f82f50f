"""What cannot be trained is said before, in words that name the value; nothing is touched."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from factory.errors import ConfigError, DataError, ModelError
from factory.finetune.cluster import ClusterConfig, on_gpus
from factory.finetune.images import choose_images
from factory.finetune.methods import about_scale, check_training, load_training
from factory.finetune.run import finetune_here, prepare
from factory.finetune.train import told_by_worker
from factory.models.conditioning import check_text_parts
from factory.models.generator import Generator
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.smear import write_smear
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.fields import with_pixels
from tests.fakes.splits import split_of
from tests.finetune.test_run import config


def test_a_base_of_another_scale_is_told_before_training(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    asked, wide = config(base), with_pixels(dataset, 1.0)
    assert about_scale(asked, wide, split) == []  # nobody knows what its pixels are
    folder = shutil.copytree(base.folder, tmp_path / "base")
    known = {**base.manifest, "field": {"pixel_size_um": 0.5}}
    (folder / "factory.json").write_text(json.dumps(known))
    asked = asked.model_copy(update={"base": str(folder)})
    field_um, sizes = 0.5 * base.size_px, dataset.contents[0]
    shown_um = 3 * min(sizes.width_px, sizes.height_px)
    (line,) = about_scale(asked, with_pixels(dataset, 3.0), split)
    assert f"learnt show {field_um:g} µm, real images {shown_um} µm" in line
    assert f"--crop {field_um:g}um shows real images alike" in line
    assert about_scale(asked, dataset, split) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ["unicorn"]}, "class 'unicorn' is not in the dataset"),
        ({"classes": {"unicorn": "a unicorn"}}, "class 'unicorn' is not in the dataset"),
        ({"train": "full", "separate": True}, "train is 'full'"),
        ({"alignment": {"weight": 1}}, "needs an expert"),
        ({"base": "nowhere"}, "no generator at 'nowhere'"),
        ({"prompt": "a {stain}"}, "class_name} is all that may stand in braces"),
        ({"cluster": {"workers": 2}}, "sharding none with 2 workers"),
        ({"cluster": {"workers": [3, 2], "sharding": "ddp"}}, "the least, 3, is above the most, 2"),
        ({"cluster": {"workers": 0}}, r"cluster\.workers"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    changes: dict[str, object],
    message: str,
    base: Generator,
    dataset: RealDataset,
    split: Split,
    tmp_path: Path,
) -> None:
    with pytest.raises((ConfigError, DataError, ModelError), match=message):
        prepare(config(base, **changes), dataset, split, tmp_path)


def test_a_split_of_another_dataset_is_refused(
    base: Generator, split: Split, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="split was made for dataset"):
        prepare(config(base), open_dataset("smear:12"), split, tmp_path)


def test_held_out_images_among_those_to_learn_from_are_refused(
    base: Generator, dataset: RealDataset, split: Split
) -> None:
    taken = split.test[0]
    twice = replace(split, train=(*split.train, taken))
    with pytest.raises(DataError, match=f"disagree on 1 ids, the first is '{taken}'"):
        choose_images(dataset, twice, config(base))

    learnt = dataset.contents[dataset.index_of(split.train[0])].pixels_sha256
    contents = [
        replace(content, pixels_sha256=learnt) if i == split.val[0] else content
        for i, content in zip(dataset.ids, dataset.contents, strict=True)
    ]
    copied = replace(dataset, contents=tuple(contents))
    told = rf"train part saw {split.val[0]} \(has the pixels of {split.train[0]}\)"
    with pytest.raises(DataError, match=told):
        choose_images(copied, split, config(base))


@pytest.mark.parametrize("preset", ["cytodiff", "blastdiffusion_small", "polyp_pairs_train"])
def test_every_method_refuses_a_turned_copy_of_a_held_out_image(
    preset: str, tmp_path: Path
) -> None:
    write_smear(tmp_path, 40, size_px=32)
    cells = open_dataset(tmp_path)
    divided = split_of(cells, train=0.6, val=0.2, test=0.2)
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    held = divided.test[0]
    learnt = next(i for i in divided.train if labels[i] == labels[held])
    taken, put = (next((tmp_path / "images").glob(f"{i}.*")) for i in (held, learnt))
    Image.open(taken).transpose(Image.Transpose.ROTATE_270).save(put)
    cells = open_dataset(tmp_path)
    moved = replace(divided, dataset=cells.fingerprint)
    config = load_training(preset)
    with pytest.raises(DataError, match=rf"the train part saw {held} \(nearly {learnt}\)"):
        check_training(config, cells, moved)


def test_a_class_without_images_to_learn_from_is_named(
    base: Generator, dataset: RealDataset, split: Split
) -> None:
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    away = tuple(i for i in split.train if labels[i] == "monocyte")
    without = replace(
        split,
        train=tuple(i for i in split.train if i not in away),
        test=tuple(sorted((*split.test, *away))),
    )
    single = replace(dataset, items=tuple(replace(item, group="") for item in dataset.items))
    without = replace(without, dataset=single.fingerprint)
    told = "class 'monocyte' has no image in the train part.*--without monocyte"
    with pytest.raises(DataError, match=told):
        choose_images(single, without, config(base))


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("text_encoder", "vocab_size", r"tokenizer has \d+ tokens, its text encoder knows 7"),
        ("text_encoder", "max_position_embeddings", "tokens a prompt, its text encoder takes 7"),
        ("unet", "cross_attention_dim", "vectors of 16 values, its U-Net takes 7"),
    ],
)
def test_a_base_whose_parts_do_not_belong_together_is_refused(
    part: str, key: str, message: str, base: Generator
) -> None:
    pipeline = load_pipeline(base)
    network = getattr(pipeline, part)
    if part == "unet":
        network.register_to_config(**{key: 7})
    else:
        setattr(network.config, key, 7)
    with pytest.raises(ConfigError, match=message):
        check_text_parts(pipeline)


def test_an_output_of_another_run_is_refused_before_anything_in_it_changes(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    finetune_here(prepare(config(base), dataset, split, tmp_path), tell=lambda _: None)
    known = (tmp_path / "plan.json").read_bytes()
    training = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "learning_rate": 0.5}
    with pytest.raises(ModelError, match=r"training\.learning_rate 0\.0001 there, 0\.5 here"):
        prepare(config(base, training=training), dataset, split, tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == known
    prepare(config(base, cluster={"max_failures": 9}), dataset, split, tmp_path)


def test_gpus_that_are_not_there_are_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"cluster\.use_gpu is true, and this machine has 0 GPUs"):
        on_gpus(ClusterConfig(use_gpu=True))
    assert not on_gpus(ClusterConfig())


@pytest.mark.parametrize(
    ("use_gpu", "workers", "trained_on"),
    [(None, 1, True), (None, 2, True), (None, 3, False), (False, 1, False), (True, 3, True)],
)
def test_a_training_takes_the_gpus_there_are(
    monkeypatch: pytest.MonkeyPatch, use_gpu: bool | None, workers: int, trained_on: bool
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    config = ClusterConfig(use_gpu=use_gpu, workers=workers, sharding="ddp")
    assert on_gpus(config) == trained_on


def test_what_a_worker_says_is_told_once_and_not_tried_again() -> None:
    told = ModelError("step 7: loss nan", remedy="Lower learning_rate")
    failure = UserExceptionWithTraceback(told, "Traceback ...\n" * 40)
    assert told_by_worker(WorkerGroupError("[Rank 0]", {0: failure})) is told
    assert told_by_worker(WorkerGroupError("[Rank 0]", {0: RuntimeError("gone")})) is None
