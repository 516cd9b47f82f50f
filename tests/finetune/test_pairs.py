"""Training of pairs: it learns, resumes, and leaves a generator that the line draws with."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from factory.config import load_config, parse_config
from factory.errors import ConfigError, DataError
from factory.finetune.autoencoder import fit_patch_autoencoder
from factory.finetune.data import Material, load_material
from factory.finetune.loop import Loop
from factory.finetune.method import task_of
from factory.finetune.methods import check_training, load_training
from factory.finetune.order import Part
from factory.finetune.run import finetune_here, load_plan, loop_of, needs_of_plan, prepare
from factory.finetune.validation import CURVE, read_curve
from factory.methods.pairs.config import PairsConfig
from factory.methods.pairs.task import PairTask, build_task, load_base
from factory.methods.pairs.train import export_target, learnt
from factory.models.generator import Generator
from factory.models.lora import folded_state
from factory.models.pipeline import load_pipeline
from factory.real import mask_values
from factory.real.clusters import make_clusters
from factory.real.dataset import RealDataset
from factory.real.images import encode_png
from factory.real.mask_values import found_values
from factory.real.sources import open_dataset
from factory.real.splits import Split, load_split
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan
from factory.sample.references import open_references
from tests.fakes.pairs import disc_pair, write_pairs
from tests.fakes.splits import split_of

NETWORK = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
STEPS = {"batch_size": 8, "warmup_steps": 5, "precision": "float32", "learning_rate": 3e-3}


def config(steps: int = 6, training: dict[str, object] | None = None, **changes: object):
    known = {"name": "discs", "size_px": 16, "network": NETWORK}
    known["training"] = {"steps": steps, **STEPS, **(training or {})}
    return PairsConfig.model_validate(known | changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs(
        tmp_path_factory.mktemp("real"), count=14, classes=("a", "b"), values=(0, 128, 255)
    )


@pytest.fixture(scope="module")
def real(files: tuple[str, str]) -> tuple[RealDataset, Split]:
    return open_dataset(files[0]), load_split(Path(files[1]))


@pytest.fixture(scope="module")
def pairs(real: tuple[RealDataset, Split]) -> Material:
    return learnt(config(), *real)


def pairs_loop(task: PairTask, pairs: Material, checkpoints: Path | None) -> Loop:
    """Return the loop that trains `task` on `pairs`."""
    return loop_of(task_of(task, pairs), task.config, checkpoints)


@pytest.fixture(scope="module")
def clusters(real: tuple[RealDataset, Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clusters") / "clusters.safetensors"
    made = make_clusters(
        *real, lambda images: images.mean((1, 2)), extractor="mean", k=3, size_px=16
    )
    made.save(path)
    return path


def test_only_the_train_part_is_prepared(pairs: Material, real: tuple[RealDataset, Split]) -> None:
    assert pairs.ids == tuple(sorted(real[1].train))
    assert pairs.images.shape == (12, 16, 16, 3)
    assert pairs.mask_values == (0, 128, 255)
    assert set(pairs.masks.unique().tolist()) == {0, 1, 2}
    row = real[0].index_of(pairs.ids[3])
    assert np.array_equal(pairs.images[3].numpy(), real[0].image(row))
    assert np.array_equal(pairs.masks[3].numpy() == 2, real[0].mask(row) == 255)


def test_image_and_mask_are_turned_together(pairs: Material) -> None:
    task = build_task(config(), pairs)
    for number in range(8):
        images, planes = task.codec.decode(task.clean(pairs, [2, 5], [number, 0]))
        straight, masks = task.codec.decode(task.clean(pairs, [2, 5], [0, 0]))
        assert torch.equal(images[1], straight[1])
        both = torch.cat([straight[0], masks[0]])
        back = torch.rot90(both, number % 4, (1, 2))
        back = back.flip(2) if number >= 4 else back
        assert torch.equal(torch.cat([images[0], planes[0]]), back)


def test_a_few_steps_already_learn(pairs: Material, tmp_path: Path) -> None:
    task = build_task(config(30), pairs)
    losses = [each.losses for each in pairs_loop(task, pairs, None).run()]
    first, last = (np.mean([each["loss"] for each in part]) for part in (losses[:6], losses[-6:]))
    assert last < 0.75 * first
    assert losses[-1]["mask"] < losses[0]["mask"]


def test_mask_and_image_weigh_as_asked(pairs: Material) -> None:
    part = Part(step=0)
    for weight in (1 / 3, 2.0):
        task = build_task(config(training={"mask_weight": weight}), pairs)
        losses = {name: value.detach() for name, value in task.loss(pairs, part).items()}
        wanted = (losses["image"] + weight * losses["mask"]) / (1 + weight)
        assert float(losses["loss"]) == pytest.approx(float(wanted), rel=1e-5)


def test_a_resumed_training_ends_at_the_same_weights(pairs: Material, tmp_path: Path) -> None:
    def weights(loop: Callable[..., object]) -> torch.Tensor:
        return torch.cat([p.flatten() for p in loop.model.parameters()])  # type: ignore[attr-defined]

    whole = pairs_loop(build_task(config(6), pairs), pairs, None)
    list(whole.run())
    begun = pairs_loop(build_task(config(6), pairs), pairs, tmp_path / "checkpoints")
    steps = begun.run()
    for _ in range(3):
        next(steps)
    begun.save()
    begun.wait()
    again = pairs_loop(build_task(config(6), pairs), pairs, tmp_path / "checkpoints")
    assert next(again.run()).step == 4
    again = pairs_loop(build_task(config(6), pairs), pairs, tmp_path / "checkpoints")
    list(again.run())
    assert torch.equal(weights(again), weights(whole))


def test_the_trained_generator_draws_pairs_and_starts_from_real_ones(
    real: tuple[RealDataset, Split], files: tuple[str, str], tmp_path: Path
) -> None:
    plan = prepare(config(condition="class", fold=2), *real, tmp_path)
    assert load_plan(tmp_path) == plan
    generator = finetune_here(plan, tell=lambda _: None)
    assert generator.class_names == ("a", "b")
    assert generator.manifest["split_digest"] == real[1].digest
    assert generator.field == plan.field
    assert set(generator.field.objects.means) == {"a", "b"}
    assert "3 classes" in (generator.folder / "README.md").read_text()
    references = open_references(*files)
    job = {"num_images": 4, "num_inference_steps": 3, "batch_size": 4, "seed": 1}
    for options in ({}, {"inpaint": {"repeats": 1}}):
        run = make_plan(GenerateConfig(**job, options=options), generator, references)
        drawn = Engine(generator, references=references).draw(run.batch(0))
        assert drawn.masks is not None
        assert drawn.masks.max() <= 2
    again = finetune_here(plan, tell=lambda _: None)
    assert again.model_id == generator.model_id  # finished trainings are not trained on


def test_every_cluster_gets_its_own_generator(
    real: tuple[RealDataset, Split], clusters: Path, tmp_path: Path
) -> None:
    plan = prepare(config(2, clusters=clusters, per_cluster=True), *real, tmp_path)
    first = finetune_here(plan, tell=lambda _: None)
    made = [export_target(plan, target) for target in plan.targets]
    assert len(made) == 3
    assert made[0].model_id == first.model_id
    members = [set(*g.manifest["clusters"]["members"].values()) for g in made]
    assert set.union(*members) == set(real[1].train)
    assert sum(map(len, members)) == len(real[1].train)
    assert len({g.model_id for g in made}) == 3
    only = prepare(
        config(2, clusters=clusters, per_cluster=True, only_clusters=(1,)), *real, tmp_path
    )
    assert only.targets == ("1",)
    with pytest.raises(DataError, match="there is no cluster 7"):
        prepare(config(2, clusters=clusters, per_cluster=True, only_clusters=(7,)), *real, tmp_path)


LORA = {"rank": 2, "unet_targets": ["to_q", "to_v", "conv1"]}


@pytest.fixture(scope="module")
def trained(real: tuple[RealDataset, Split], tmp_path_factory: pytest.TempPathFactory) -> Generator:
    asked = config(4, condition="class")
    plan = prepare(asked, *real, tmp_path_factory.mktemp("base"))
    return finetune_here(plan, tell=lambda _: None)


@pytest.mark.slow
def test_every_cluster_gets_a_lora_of_one_base(
    real: tuple[RealDataset, Split], trained: Generator, clusters: Path, tmp_path: Path
) -> None:
    asked = PairsConfig.model_validate(
        {"name": "small", "base": str(trained.folder), "lora": LORA, "clusters": clusters}
        | {"per_cluster": True, "only_clusters": (0, 1), "training": {"steps": 3, **STEPS}}
    )
    plan = prepare(asked, *real, tmp_path)
    assert load_plan(tmp_path) == plan
    assert plan.config.size_px == 16  # the base's, as its network
    base = load_base(plan.config)
    assert base is not None
    before = base.network.state_dict()
    finetune_here(plan, tell=lambda _: None)
    for target in plan.targets:
        made = export_target(plan, target)
        assert made.manifest["base_model_id"] == trained.model_id
        assert "trained on from base" in (made.folder / "README.md").read_text()
        after = load_pipeline(made).unet.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert after.keys() == before.keys()
        assert changed
        assert all(any(f".{t}.weight" in n for t in LORA["unet_targets"]) for n in changed)


def test_lora_and_folded_weights_predict_the_same(trained: Generator, pairs: Material) -> None:
    asked = config(1, base=str(trained.folder), lora=LORA, condition="class")
    task = build_task(asked, pairs, base=load_base(asked))
    for name, value in task.network.named_parameters():
        if ".lora_B." in name:
            value.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    plain = build_task(
        asked.model_copy(update={"lora": None}), pairs, base=load_base(asked)
    ).network
    sample = torch.randn(2, plain.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    unchanged = plain(sample, 5).sample
    plain.load_state_dict(folded_state(task.network, asked.lora))
    torch.testing.assert_close(plain(sample, 5).sample, task.network(sample, 5).sample)
    assert (unchanged - plain(sample, 5).sample).abs().max() > 1e-3


def test_a_base_that_does_not_fit_is_refused(
    real: tuple[RealDataset, Split], trained: Generator, pairs: Material, tmp_path: Path
) -> None:
    dataset, split = real
    base = {"base": str(trained.folder)}
    with pytest.raises(ConfigError, match=r"size_px is 32, but the base .* has 16"):
        prepare(config(**base, size_px=32), *real, tmp_path)
    other = replace(split, train=split.train[1:], test=(*split.test, split.train[0]))
    with pytest.raises(DataError, match="learnt from split"):
        prepare(config(**base), dataset, other, tmp_path)
    with pytest.raises(ValueError, match="lora: it needs the base"):
        config(lora=LORA)
    asked = config(**base, condition="class")
    strange = replace(pairs, labels=("c",) * len(pairs.labels))
    with pytest.raises(ConfigError, match="does not know the class 'c'"):
        build_task(asked, strange, base=load_base(asked))


def test_one_generator_knows_all_clusters_and_their_neighbours(
    real: tuple[RealDataset, Split], files: tuple[str, str], clusters: Path, tmp_path: Path
) -> None:
    plan = prepare(config(2, clusters=clusters, condition="cluster"), *real, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    references = open_references(*files)
    options = {"start": "reference", "match_colours": True, "target": "nearest"}
    job = {"num_images": 4, "num_inference_steps": 2, "batch_size": 4, "seed": 1}
    run = make_plan(GenerateConfig(**job, options=options), generator, references)
    for quota in run.quotas:
        recipe = quota.recipe
        assert recipe.reference_id in generator.manifest["clusters"]["members"][
            str(recipe.cluster_id)
        ]  # fmt: skip
        assert recipe.target_id not in (None, recipe.reference_id)
    assert len(Engine(generator, references=references).draw(run.batch(0))) == 4


@pytest.mark.parametrize("fitted", [False, True], ids=["of another", "of principal components"])
def test_a_latent_generator_is_trained_on_an_autoencoder(
    fitted: bool, real: tuple[RealDataset, Split], tmp_path: Path, tiny: Generator
) -> None:
    stage = {"components": 20} if fitted else str(tiny.folder)
    plan = prepare(config(2, autoencoder=stage, condition="none"), *real, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    unet = json.loads((generator.folder / "unet" / "config.json").read_text())
    assert unet["latent"] is True
    assert unet["fold"] == 4
    job = {
        "num_images": 2,
        "num_inference_steps": 2,
        "batch_size": 2,
        "guidance_scale": 1,
        "seed": 1,
    }
    with pytest.raises(ConfigError, match="without knowing its 2 classes"):
        make_plan(GenerateConfig(**job), generator)
    job["classes"] = {"a": "a"}
    drawn = Engine(generator).draw(make_plan(GenerateConfig(**job), generator).batch(0))
    assert drawn.images.shape == (2, 16, 16, 3)
    if not fitted:
        return
    own = load_pipeline(generator).vae
    learn = load_material(plan.learn)
    again = fit_patch_autoencoder(learn.images, latent_channels=20)  # of the train part alone
    assert torch.equal(own.encoder.weight, again.encoder.weight)
    more = prepare(config(2, base=str(generator.folder)), *real, tmp_path / "more")
    adapted = finetune_here(more, tell=lambda _: None)
    assert torch.equal(load_pipeline(adapted).vae.encoder.weight, own.encoder.weight)


def test_masks_that_are_no_classes_are_refused(
    real: tuple[RealDataset, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = real[1].train
    assert found_values(real[0], ids) == (0, 128, 255)
    monkeypatch.setattr(mask_values, "MOST_CLASSES", 2)
    with pytest.raises(DataError, match=r"hold 3 values \(0, 128, 255, ...\): not 2 to 2 classes"):
        found_values(real[0], ids)


def test_some_classes_alone_are_prepared(real: tuple[RealDataset, Split], tmp_path: Path) -> None:
    assert set(load_material(prepare(config(only=("b",)), *real, tmp_path).learn).labels) == {"b"}
    with pytest.raises(ConfigError, match="class 'c' is not in the dataset"):
        prepare(config(only=("c",)), *real, tmp_path / "c")


def test_a_mask_value_that_is_not_listed_is_refused(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="holds the value 128"):
        prepare(config(mask_values=(0, 255)), *real, tmp_path / "pairs")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"condition": "cluster"}, "need the file of some"),
        ({"fold": 2, "autoencoder": "x"}, "the autoencoder folds"),
        ({"network": {"block_out_channels": (8,), "attention_levels": 2}}, "exceeds the number"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], reason: str) -> None:
    stored = {"name": "a", **changes}
    with pytest.raises(ConfigError, match=reason):
        parse_config(PairsConfig, stored, where="job")


def test_a_side_that_the_network_cannot_halve_is_refused(pairs: Material) -> None:
    odd = config(fold=8, network={**NETWORK, "block_out_channels": (8, 8, 8)})
    with pytest.raises(ConfigError, match="a side of 2 cannot be halved 2 times"):
        build_task(odd, pairs)


def test_the_presets_are_read() -> None:
    large, small = (load_training(name) for name in ("polyp_pairs_train", "pairs_small"))
    assert isinstance(large, PairsConfig)
    assert (large.fold, large.autoencoder) == (2, None)
    assert small.autoencoder.components == 20
    job = load_config(GenerateConfig, "polyp_pairs")
    assert job.images_per_reference == 3


SHORT = {"every_steps": 2, "images_per_class": 2, "num_inference_steps": 2, "max_images": 4}


def test_classes_are_the_condition_where_there_are_several(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    asked = config(4, validation=SHORT)
    assert asked.condition is None
    plan = prepare(asked, *real, tmp_path / "two")
    assert plan.config.condition == "class"
    assert load_plan(tmp_path / "two") == plan
    one = prepare(config(4, only=("a",)), *real, tmp_path / "one")
    assert one.config.condition == "none"

    told: list[str] = []
    generator = finetune_here(plan, tell=told.append)
    assert generator.manifest["labels"] == ["a", "b"]
    assert [line for line in told if "val_loss" in line and "val_passed" in line]
    job = {"num_images": 4, "num_inference_steps": 2, "batch_size": 2, "seed": 1}
    drawn = make_plan(GenerateConfig(**job), generator)  # which was refused under 'none'
    assert {quota.recipe.class_name for quota in drawn.quotas} == {"a", "b"}


def test_a_validation_changes_no_weight_and_leaves_its_curve_and_samples(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    made = {}
    for name, draw_every in {"drawn": 1, "none": None}.items():
        asked = config(4, validation={**SHORT, "draw_every": draw_every})
        made[name] = finetune_here(prepare(asked, *real, tmp_path / name), tell=lambda _: None)
    assert made["drawn"].model_id == made["none"].model_id
    curve = read_curve(tmp_path / "drawn" / "targets" / "all" / CURVE)
    assert list(curve) == [2, 4]
    assert set(curve[4]) == {"val_loss", "val_image", "val_mask", "val_passed"}
    sheet = Image.open(made["drawn"].folder / "samples.png")
    assert sheet.width == 2 * (2 * 2 * 16 + 2)  # two pairs, the mask beside the image, zoomed by 2
    card = (made["drawn"].folder / "README.md").read_text()
    assert "![Samples of every class, not selected](samples.png)" in card
    assert not (made["none"].folder / "samples.png").exists()


def test_the_best_step_of_pairs_can_be_exported(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    asked = config(6, validation={**SHORT, "draw_every": None, "best_by": "val_loss"})
    generator = finetune_here(prepare(asked, *real, tmp_path), tell=lambda _: None)
    curve = read_curve(tmp_path / "targets" / "all" / CURVE)
    best = min(curve, key=lambda step: curve[step]["val_loss"])
    assert generator.manifest["steps_trained"] == best


def test_masks_that_cannot_be_classes_are_refused_before_anything_is_prepared(
    tmp_path: Path,
) -> None:
    for number in range(8):
        image, _ = disc_pair(number)
        mask = np.zeros((16, 16), np.uint8)
        for numbered in range(1 + number % 5):  # so many objects in this image
            mask[3 * numbered : 3 * numbered + 2] = numbered + 1
        for kind, pixels in {"images": image, "masks": mask}.items():
            path = tmp_path / "data" / kind / "gland" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(pixels))
    glands = open_dataset(tmp_path / "data")
    split = split_of(glands, train=0.6, val=0.2, test=0.2)
    with pytest.raises(DataError, match=r"seem to number objects: from 0 to 5.*--masks object"):
        check_training(config(), glands, split)
    check_training(config(mask_values=(0, 1, 2, 3, 4, 5)), glands, split)
    objects = open_dataset(tmp_path / "data", masks="object")
    divided = split_of(objects, train=0.6, val=0.2, test=0.2)
    check_training(config(), objects, divided)
    assert prepare(config(), objects, divided, tmp_path / "run").config.condition == "none"

    bare = tmp_path / "bare" / "a"
    bare.mkdir(parents=True)
    for number in range(8):
        (bare / f"{number}.png").write_bytes(encode_png(disc_pair(number)[0]))
    images = open_dataset(bare.parent)
    with pytest.raises(DataError, match=r"has no mask \(4 of 4 to learn from"):
        check_training(config(), images, split_of(images, train=0.5, val=0.25, test=0.25))


def test_shots_of_every_class_and_a_kid_are_had_by_pairs_too(
    real: tuple[RealDataset, Split], features: Path, tmp_path: Path
) -> None:
    asked = config(2, n_shot={"a": 2}, validation={**SHORT, "features": features})
    plan = prepare(asked, *real, tmp_path)
    labels = load_material(plan.learn).labels
    assert (labels.count("a"), labels.count("b")) == (2, 6)
    generator = finetune_here(plan, tell=lambda _: None)
    (figures,) = generator.manifest["validation"].values()
    assert {"val_loss", "val_passed"} <= set(figures)
    assert ("val_kid" in figures) == (len(load_material(plan.held_out)) >= 4)
    with pytest.raises(ConfigError, match="class 'c' is not in the dataset"):
        prepare(config(n_shot={"c": 2}), *real, tmp_path / "c")


def test_pairs_are_pulled_to_an_experts_features(
    real: tuple[RealDataset, Split], expert_folder: Path, tmp_path: Path
) -> None:
    aligned = {"expert": expert_folder, "alignment": {"weight": 1}}
    told: list[str] = []
    plan = prepare(config(2, **aligned, validation=SHORT), *real, tmp_path / "on")
    assert plan.config.expert == expert_folder
    generator = finetune_here(plan, tell=told.append)
    assert any("alignment" in line and "val_alignment" in line for line in told)
    assert not any("projection" in name for name in load_pipeline(generator).unet.state_dict())
    plain = finetune_here(prepare(config(2), *real, tmp_path / "off"), tell=lambda _: None)
    assert plain.model_id != generator.model_id
    assert needs_of_plan(plan).startswith("needs about 0.")
