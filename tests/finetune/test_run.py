"""Fine-tuning from images to a generator folder, on the drawn demo set and a tiny base."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.config import parse_config
from factory.errors import ConfigError, ModelError
from factory.evaluate.lineage import learnt_from
from factory.evaluate.synthetic import origin_of
from factory.finetune.config import ANY
from factory.finetune.data import Material, load_material
from factory.finetune.images import choose_images, thin_classes, val_images, without_classes
from factory.finetune.order import Part
from factory.finetune.plan import Plan
from factory.finetune.run import finetune_here, load_plan, loop_of, prepare, training_of
from factory.finetune.workers import Workers
from factory.gate.calibration import calibration_of
from factory.gate.verdict import status_of
from factory.methods.text.adapt import Adaptation, adapt
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.train import base_of, encoded_part
from factory.models.generator import Generator, open_generator
from factory.models.lora import open_lora
from factory.models.pipeline import load_pipeline
from factory.models.windowed import attention_window, set_attention_window
from factory.real.dataset import RealDataset
from factory.real.splits import Split, n_shot
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan
from tests.fakes.tiny import tiny_generator


def config(generator: Generator, **changes: object) -> FinetuneConfig:
    known = {
        "name": "mine",
        "base": str(generator.folder),
        "n_shot": 2,
        "lora": {"rank": 2},
        "training": {"steps": 3, "batch_size": 2, "warmup_steps": 1},
        "validation": {"every_steps": 2, "draw_every": None},
    }
    return parse_config(FinetuneConfig, known | changes, where="test")


def encoded_of(plan: Plan) -> Material:
    """Return the images to learn from with their latents."""
    made = base_of(plan)
    return encoded_part(plan, plan.learn, made, load_pipeline(made).vae)


Separate = tuple[Plan, Generator, list[str]]


@pytest.fixture(scope="module")
def separate(
    base: Generator, dataset: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Separate:
    """A LoRA for every class, and what was told."""
    training = {"steps": 6, "batch_size": 2, "warmup_steps": 1, "learning_rate": 0.05}
    asked, told = config(base, separate=True, training=training), list[str]()
    plan = prepare(asked, dataset, split, tmp_path_factory.mktemp("separate"))
    return plan, finetune_here(plan, tell=told.append), told


def test_a_lora_for_every_class(base: Generator, dataset: RealDataset, separate: Separate) -> None:
    plan, generator, told = separate
    assert set(plan.targets) == set(dataset.labels)
    assert any("val_loss" in line for line in told)
    for target in plan.targets:
        lora = open_lora(generator.folder / "lora" / target)
        assert lora.notes.base_model_id == base.model_id
        assert lora.notes.class_names == (target,)
        assert any(
            value.abs().sum() > 0 for name, value in lora.tensors.items() if "lora_B" in name
        )


def test_only_images_of_the_train_part_are_learnt_from(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(base), dataset, split, tmp_path)
    assert load_plan(tmp_path) == plan  # by a worker
    learnt, held_out = load_material(plan.learn), load_material(plan.held_out)
    assert set(learnt.ids) <= set(split.train)
    assert set(held_out.ids) <= set(split.val)
    assert sorted(learnt.labels) == sorted([*set(dataset.labels)] * 2)


def test_few_shots_follow_the_seed(base: Generator, dataset: RealDataset, split: Split) -> None:
    first, same, other = (
        choose_images(dataset, split, config(base, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == same != other
    single = choose_images(dataset, split, config(base, n_shot={"monocyte": 1}))
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    found = Counter(labels[i] for i in single)
    everything = Counter(labels[i] for i in split.train)
    assert found == {**everything, "monocyte": 1}
    with pytest.raises(ConfigError, match="class 'mono' is not in the dataset"):
        choose_images(dataset, split, config(base, n_shot={"mono": 1}))


def test_attention_is_made_local_by_a_full_training_and_stays_so_wherever_it_is_drawn(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    changes = {"train": "full", "training": {"steps": 1, "batch_size": 2, "warmup_steps": 0}}
    ways = {}
    for window in (None, 1):
        asked = config(base, attention_window=window, **changes)
        ways[window] = finetune_here(
            prepare(asked, dataset, split, tmp_path / str(window)), tell=lambda _: None
        )
    local = load_pipeline(ways[1]).unet
    assert attention_window(local) == 1
    assert attention_window(load_pipeline(ways[None]).unet) is None
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = (latents, torch.tensor(3), torch.zeros(1, 2, 16))
        seen = local(*given).sample
        set_attention_window(local, None)
        assert not torch.equal(seen, local(*given).sample)
    with pytest.raises(ConfigError, match="set train: full"):
        config(base, attention_window=2)


def test_killed_training_goes_on_to_the_same_lora(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    def trained(folder: Path, stop: int | None) -> dict[str, torch.Tensor]:
        plan = prepare(config(base, only=["monocyte"]), dataset, split, folder)
        if stop:
            training = training_of(plan)
            training.first_stage(plan, device="cpu", follow=lambda *_: None)
            task = training.task(plan, "all", Workers())
            loop = loop_of(task, plan.config, plan.folder_of("all") / "checkpoints")
            steps = loop.run()
            for _ in range(stop):
                next(steps)
            loop.save()
            loop.wait()
        finetune_here(plan, tell=lambda _: None)
        return dict(open_lora(folder / "generator" / "lora" / "all").tensors)

    whole, broken = trained(tmp_path / "a", None), trained(tmp_path / "b", 2)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_all_weights_can_be_trained(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(base, train="full"), dataset, split, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    before, after = (load_pipeline(g).unet.state_dict() for g in (base, generator))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    vaes = [load_pipeline(g).vae.state_dict() for g in (base, generator)]
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])


def test_the_empty_prompt_comes_as_often_as_asked(
    base: Generator,
    dataset: RealDataset,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = {"steps": 3, "batch_size": 2000, "condition_dropout": 0.2}
    plan = prepare(config(base, training=training), dataset, split, tmp_path)
    adaptation = adapt(load_pipeline(base), plan.config, tuple(sorted(set(dataset.labels))))
    material, shown = encoded_of(plan), []
    monkeypatch.setattr(
        Adaptation, "_losses", lambda _self, _noised, prompts, *_: shown.extend(prompts) or {}
    )
    for step in range(5):
        adaptation.loss(material, Part(step=step))
    assert len(shown) == 10_000
    assert np.mean([prompt == "" for prompt in shown]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_each_class_is_drawn_with_its_own_lora_and_redrawn_in_any_order(
    base: Generator, separate: Separate
) -> None:
    _, generator, _ = separate
    drawing = GenerateConfig(
        model=str(generator.folder),
        num_images=10,
        classes={name: f"a {name}" for name in generator.class_names},
        num_inference_steps=2,
        batch_size=2,
        seed=1,
    )
    plan = make_plan(drawing, generator)
    assert len({batch.requests[0].recipe.adapter_id for batch in plan.batches()}) == 5

    engine, backwards = Engine(generator), Engine(generator)
    first = [engine.draw(batch).images for batch in plan.batches()]
    again = [backwards.draw(batch).images for batch in reversed(list(plan.batches()))]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))

    plain = make_plan(drawing.model_copy(update={"model": str(base.folder)}), base)
    unadapted = [Engine(base).draw(batch).images for batch in plain.batches()]
    assert not any(np.array_equal(a, b) for a, b in zip(first, unadapted, strict=True))


def test_a_generator_whose_base_changed_is_refused(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    copy = shutil.copytree(base.folder, tmp_path / "base")
    made = prepare(config(base, base=str(copy)), dataset, split, tmp_path / "run")
    generator = finetune_here(made, tell=lambda _: None)
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    with pytest.raises(ModelError, match="was trained on base"):
        Engine(generator)


def test_a_generator_is_drawn_with_wherever_it_was_moved(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    asked = config(base, only=["monocyte"], autoencoder={"steps": 1, "batch_size": 2})
    made = finetune_here(prepare(asked, dataset, split, tmp_path / "run"), tell=lambda _: None)
    named = json.loads((made.folder / "factory.json").read_text())
    assert named["base"] == "tiny-0-autoencoder"  # a name, no place of this machine
    moved = open_generator(shutil.move(made.folder, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "run")
    assert moved.model_id == made.model_id
    assert moved.base().folder == tmp_path / "elsewhere" / "base"
    Engine(moved)


def test_a_base_that_was_moved_too_is_found_by_its_id(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    mine = shutil.copytree(base.folder, tmp_path / "lab" / "my base")
    asked = config(base, base=str(mine), only=["monocyte"])
    made = finetune_here(
        prepare(asked, dataset, split, tmp_path / "lab" / "run"), tell=lambda _: None
    )
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(made.folder, away / "generator")
    tiny_generator(away / "another", seed=3)
    shutil.move(mine, away / "renamed")
    assert open_generator(away / "generator").base().folder == away / "renamed"
    shutil.rmtree(away / "renamed")
    with pytest.raises(ModelError, match=r"it is not there .*my base.*beside generator"):
        open_generator(away / "generator").base()


def test_a_generator_brings_the_thresholds_of_the_images_it_learnt(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(base), dataset, split, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    measured = calibration_of(generator)
    learnt = load_material(plan.learn).ids
    assert measured.images == len(learnt)
    assert set(measured.real) == set(dataset.labels)
    assert set(generator.field.objects.means) == set(dataset.labels)
    assert generator.field == load_plan(tmp_path).field == plan.field
    for image in dataset.array(generator.size_px, learnt):
        assert status_of(measured.thresholds.judge(image)) == "accepted"


def test_a_prompt_that_is_cut_is_told_and_stored_as_it_was_read(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    told: list[str] = []
    long = "monocyte " * 50
    asked = config(base, only=["monocyte", "lymphocyte"], classes={"monocyte": f"{long}first"})
    plan = prepare(asked, dataset, split, tmp_path / "run", tell=told.append)
    assert any("reads 48 of 57 tokens" in line and "first' is cut off" in line for line in told)
    generator = finetune_here(plan, tell=told.append)
    assert generator.prompts["monocyte"] == " ".join(["monocyte"] * 46)

    alike = {"monocyte": f"{long}first", "lymphocyte": f"{long}second"}
    asked = config(base, only=["monocyte", "lymphocyte"], classes=alike)
    with pytest.raises(ConfigError, match=r"'lymphocyte' and 'monocyte' have prompts .* alike"):
        prepare(asked, dataset, split, tmp_path / "alike")
    apart = asked.model_copy(update={"separate": True})
    assert prepare(apart, dataset, split, tmp_path / "apart").targets == ("lymphocyte", "monocyte")


def test_shots_are_up_to_a_number_and_thin_classes_are_named(
    base: Generator, dataset: RealDataset, split: Split
) -> None:
    single = replace(dataset, items=tuple(replace(item, group="") for item in dataset.items))
    split, dataset = replace(split, dataset=single.fingerprint), single
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    monocytes = [i for i in split.train if labels[i] == "monocyte"]
    fewer = replace(
        split,
        train=tuple(i for i in split.train if i not in monocytes[2:]),
        val=tuple(sorted((*split.val, *monocytes[2:]))),
    )
    asked = config(base, n_shot=5)
    chosen = choose_images(dataset, fewer, asked)
    assert Counter(labels[i] for i in chosen) == dict.fromkeys(set(labels.values()), 5) | {
        "monocyte": 2
    }
    assert set(monocytes[:2]) <= set(chosen)
    told = thin_classes(dataset, fewer, asked)
    assert [line for line in told if line.startswith("monocyte: 2 of the 5 shots asked")] == told
    # who has enough of every class chooses as before
    assert choose_images(dataset, fewer, config(base, n_shot=2)) == tuple(
        i for members in n_shot(fewer, labels=labels, shots=2, seed=0).values() for i in members
    )


def test_classes_are_left_out_by_name(base: Generator, dataset: RealDataset) -> None:
    left = without_classes(config(base), dataset, ["monocyte", "basophil"])
    assert left.only == ("eosinophil", "lymphocyte", "neutrophil")
    assert without_classes(config(base), dataset, []) == config(base)
    with pytest.raises(ConfigError, match=r"--without 'Monocyte': .* Its classes are basophil"):
        without_classes(config(base), dataset, ["Monocyte"])
    with pytest.raises(ConfigError, match="leaves no class"):
        without_classes(config(base, only=["monocyte"]), dataset, ["monocyte"])


def test_without_labels_the_same_is_learnt_whatever_they_are(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    turned = [*dataset.labels[1:], dataset.labels[0]]
    items = (replace(own, label=name) for own, name in zip(dataset.items, turned, strict=True))
    other = replace(dataset, items=tuple(items))
    asked = config(base, n_shot=None, unlabelled=True)
    plans = [
        prepare(asked, each, replace(split, dataset=each.fingerprint), tmp_path / name)
        for name, each in (("own", dataset), ("turned", other))
    ]
    one, two = (finetune_here(plan, tell=lambda _line: None) for plan in plans)
    assert set(load_material(plans[0].learn).ids) == set(split.train)
    assert one.class_names == base.class_names
    assert one.prompts == base.prompts
    assert one.field == two.field
    assert one.manifest["gates"] == two.manifest["gates"]
    assert set(one.manifest["gates"]["real"]).isdisjoint(dataset.labels)
    same, drawn = (open_lora(each.folder / "lora" / "all").tensors for each in (one, two))
    assert all(torch.equal(value, drawn[name]) for name, value in same.items())
    job = GenerateConfig(model=str(one.folder), num_images=2, classes=["monocyte"], seed=0)
    (batch,) = make_plan(job, one).batches()
    assert [each.recipe.class_name for each in batch.requests] == ["monocyte"] * 2
    assert {each.recipe.prompt for each in batch.requests} == {base.prompts["monocyte"]}


def test_a_training_without_labels_asks_for_nothing_that_they_decide(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    for key, value in {"n_shot": 2, "separate": True, "only": ["monocyte"]}.items():
        told = {"n_shot": None, key: value}
        with pytest.raises(ConfigError, match=f"looks at no label, and {key} does"):
            config(base, unlabelled=True, **told)
    with pytest.raises(ConfigError, match="unlabelled: true looks at none"):
        without_classes(config(base, n_shot=None, unlabelled=True), dataset, ["monocyte"])
    nameless = tiny_generator(tmp_path / "base", class_names=())
    asked = config(nameless, n_shot=None, unlabelled=True)
    with pytest.raises(ConfigError, match="says nothing of the classes that it knows"):
        prepare(asked, dataset, split, tmp_path / "run")


def test_a_class_may_be_called_as_untold_labels_are(
    base: Generator, dataset: RealDataset, split: Split
) -> None:
    names = {"monocyte": ANY}
    items = (replace(own, label=names.get(own.label, own.label)) for own in dataset.items)
    called = replace(dataset, items=tuple(items))
    held = val_images(called, split, [ANY])
    assert held == val_images(dataset, split, ["monocyte"])
    assert held != split.val
    assert config(base, only=[ANY]).prompt_of(ANY) == "a any"


def test_an_autoencoder_of_patches_is_not_adapted_and_its_base_is(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    names = tuple(sorted(set(dataset.labels)))
    base = tiny_generator(tmp_path / "base", class_names=names, components=12)
    told: list[str] = []
    asked = config(base, autoencoder={"steps": 2})
    plan = prepare(asked, dataset, split, tmp_path / "out", tell=told.append)
    assert plan.config.base == str(base.folder)
    assert any("of patches and needs no adapting" in line for line in told)
    generator = finetune_here(plan, tell=lambda _: None)
    assert generator.adapters
    assert generator.base().model_id == base.model_id


@pytest.mark.parametrize("told", [{"n_shot": 2}, {"n_shot": None, "unlabelled": True}])
def test_an_adapted_autoencoder_says_which_images_it_saw(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path, told: dict[str, object]
) -> None:
    """As its LoRA does: a study of few labels asks of both whether they know more."""
    asked = config(base, autoencoder={"steps": 1, "batch_size": 2}, **told)
    generator = finetune_here(prepare(asked, dataset, split, tmp_path), tell=lambda _line: None)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    own, under = (
        learnt_from(origin_of({**each.manifest, "model_id": "x"}), split, labels)
        for each in (generator, generator.base())
    )
    assert own == under
    assert len(own) == (len(split.train) if "unlabelled" in told else 10)
