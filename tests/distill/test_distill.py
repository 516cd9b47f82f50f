"""A student draws in a few evaluations what its teacher draws in many."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from factory.distill.config import load_distillation
from factory.distill.student import Student, distil, straight
from factory.distill.trajectories import record, trajectory
from factory.errors import ConfigError, DataError, FactoryError, ModelError
from factory.finetune.methods import check_bases, load_training
from factory.models.domains import write_domains
from factory.models.folder import read_json
from factory.models.generator import Generator, open_generator
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.guidance import to_uint8
from factory.sample.levels import solver_levels
from factory.sample.plan import Plan
from factory.sample.prepare import make_plan, prepare
from tests.fakes.class_unet import tiny_class_generator
from tests.fakes.pair_generator import tiny_pairs

FEW = (
    "steps=2",
    "teacher.num_images=12",
    "teacher.batch_size=4",
    "teacher.num_inference_steps=6",
    "teacher.guidance_scale=3",
    "held_out=3",
    "training.steps=30",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "training.warmup_steps=2",
    "training.ema_decay=0",
    "training.precision=float32",
    "validate_every=30",
)


def distilled(
    generator: Generator, output: Path, overrides: Sequence[str] = (), told: Any = None
) -> Generator:
    config, teacher, plan = load_distillation("distill", [*FEW, *overrides], str(generator.folder))
    return distil(config, teacher, plan, output, tell=told or (lambda _line: None))


@pytest.fixture(scope="module")
def student(tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return distilled(tiny, tmp_path_factory.mktemp("student"))


def plan_of(generator: Generator, **keys: Any) -> Plan:
    config = GenerateConfig(num_images=3, seed=0, batch_size=4, **keys)
    return make_plan(config, generator)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "ddim", "unipc"])
def test_a_way_ends_at_what_is_drawn_bit_for_bit(tiny: Generator, scheduler: str) -> None:
    plan = plan_of(tiny, scheduler=scheduler, num_inference_steps=6, guidance_scale=3)
    requests = plan.batch(0).requests
    method = Engine(tiny).guided("monocyte")
    states = trajectory(method, requests, 2)
    assert states.shape == (len(requests), 3, 4, 4, 4)
    assert torch.equal(states[:, 0], method.noise(requests))
    drawn = method.draw(requests)
    with torch.inference_mode():
        assert (to_uint8(method.decode(states[:, -1])) == to_uint8(drawn)).all()


def test_a_straight_step_ends_where_the_teacher_was(tiny: Generator) -> None:
    levels = solver_levels("ddim", Engine(tiny).pipeline.scheduler.config, 4)
    generator = torch.Generator().manual_seed(0)
    noisy, ended = torch.randn(2, 5, 4, 4, 4, generator=generator)
    for level in range(1, 5):
        at, below = (levels.scales(number, noisy) for number in (level, level - 1))
        clean = straight(noisy, ended, at, below)
        noise = (noisy - at[0] * clean) / at[1]
        assert torch.allclose(levels.at(level - 1, clean, noise), ended, atol=1e-5)


@pytest.mark.parametrize("conditioning", [None, "context_class", "class", "text"])
def test_who_draws_as_a_student_does_has_nothing_to_learn(
    tiny: Generator, conditioning: str | None, tmp_path: Path
) -> None:
    """The teacher at the student's own settings: the loss of its own network is 0."""
    generator = tiny_class_generator(tmp_path / "g", conditioning) if conditioning else tiny
    plan = plan_of(generator, scheduler="ddim", num_inference_steps=2, guidance_scale=1)
    ways = record(Engine(generator), plan, 2, tmp_path, tell=lambda _line: None)
    method = Engine(generator).guided("monocyte")
    student = Student(method=method, levels=solver_levels("ddim", method.training_config, 2))
    with torch.no_grad():
        for stretch in range(2):
            rows = torch.arange(len(ways))
            losses = student.velocity_losses(ways, rows, torch.full_like(rows, stretch))
            assert float(losses.max()) < 1e-9
        assert torch.allclose(student.drawn(ways), ways.states[:, -1], atol=1e-4)


def test_a_student_comes_nearer_to_its_teacher(student: Generator, tiny: Generator) -> None:
    start = read_json(student.folder / "factory.json")
    told = start["validation"]["all"]
    assert told["step"] == 30
    assert told["val_distance"] < 0.5
    assert start["distilled"] == {
        "scheduler": "ddim",
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "teacher": tiny.model_id,
    }
    assert start["base_model_id"] == tiny.model_id
    assert (student.folder / "sheet.png").is_file()
    card = (student.folder / "README.md").read_text()
    assert "2 evaluations" in " ".join(card.split())
    assert card.count("**Licence.**") == 1
    for written in (card, str(start)):  # no place on this machine goes out
        assert str(tiny.folder.parent) not in written
    vae = "vae/diffusion_pytorch_model.safetensors"
    ours, theirs = (load_file(each.folder / vae) for each in (student, tiny))
    assert all(torch.equal(value, theirs[name].half()) for name, value in ours.items())


def test_a_student_is_drawn_by_its_own_settings_whatever_is_asked(
    student: Generator, tmp_path: Path
) -> None:
    asked = {"model": str(student.folder), "num_images": 3, "seed": 1}
    run = prepare(GenerateConfig(**asked, guidance_scale=2, num_inference_steps=20), tmp_path)
    recipe = run.plan.quotas[0].recipe
    told = (recipe.scheduler, recipe.num_inference_steps, recipe.guidance_scale)
    assert told == ("ddim", 2, 1)
    assert any("was distilled" in line for line in run.said)
    with pytest.raises(ConfigError, match=r"num_inference_steps 20.*was distilled.*Set num_inf"):
        make_plan(GenerateConfig(**asked, scheduler="ddim", guidance_scale=1), student)
    table = tmp_path / "rows.csv"
    table.write_text("class_name,guidance_scale\nmonocyte,3\n")
    with pytest.raises(ConfigError, match=r"guidance_scale 3.*was distilled"):
        prepare(GenerateConfig(**asked | {"num_images": 1}, table=table), tmp_path)


def test_nothing_is_trained_or_bridged_from_a_student(student: Generator, tmp_path: Path) -> None:
    config = load_training("cytodiff_small", [f"base={student.folder}"])
    with pytest.raises(ConfigError, match="no more than 2 noise levels"):
        check_bases(config, "cytodiff_small")
    both = {name: (str(student.folder), name) for name in ("monocyte", "neutrophil")}
    with pytest.raises(ModelError, match="is a distilled generator"):
        write_domains(tmp_path / "bridge", both)


def test_a_killed_distillation_ends_as_the_undisturbed_one(
    student: Generator, tiny: Generator, tmp_path: Path
) -> None:
    """Stopped once among the ways of the teacher, once in training."""

    class Killed(Exception):
        pass

    def stop_at(word: str) -> Any:
        def tell(line: str) -> None:
            if line.startswith(word):
                raise Killed

        return tell

    with pytest.raises(Killed):
        distilled(tiny, tmp_path, told=stop_at("teacher"))
    kept = sorted(tmp_path.glob("trajectories-*/*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) == 3
    with pytest.raises(Killed):
        distilled(tiny, tmp_path, ["training.steps=10"], told=stop_at("step 10"))
    unet = "unet/diffusion_pytorch_model.safetensors"
    again = distilled(tiny, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    first, second = (load_file(each.folder / unet) for each in (student, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_damaged_ways_are_named(tiny: Generator, tmp_path: Path) -> None:
    plan = plan_of(tiny, num_inference_steps=2)
    record(Engine(tiny), plan, 2, tmp_path, tell=lambda _line: None)
    (path,) = tmp_path.glob("trajectories-*/*")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="is damaged"):
        record(Engine(tiny), plan, 2, tmp_path, tell=lambda _line: None)
    save_file({"states": torch.zeros(2, 3, 4, 4, 4)}, path)
    with pytest.raises(DataError, match="2 trajectories of 3"):
        record(Engine(tiny), plan, 2, tmp_path, tell=lambda _line: None)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("teacher.scheduler=ddpm", "teacher.scheduler 'ddpm'"),
        ("teacher.scheduler=euler", "teacher.scheduler 'euler'"),
        ("teacher.num_inference_steps=7", "7 is no multiple of steps 2"),
        ("teacher.guidance_scale=0.5", "teacher.guidance_scale 0.5"),
        ("held_out=12", "held_out 12 of teacher.num_images 12"),
    ],
)
def test_what_cannot_be_learnt_is_refused(tiny: Generator, override: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load_distillation("distill", [*FEW, override], str(tiny.folder))


def test_who_has_not_one_denoiser_of_latents_is_refused(tmp_path: Path) -> None:
    masked = tiny_class_generator(tmp_path / "masked", "concat")
    for generator, reason in (
        (tiny_pairs(tmp_path / "pairs"), "of method 'pairs' cannot be distilled"),
        (masked, "draws over masks"),
    ):
        with pytest.raises(FactoryError, match=reason):
            load_distillation("distill", FEW, str(generator.folder))


def test_a_manifest_that_settles_nonsense_is_refused(student: Generator, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(student.folder, tmp_path / "g")
    told = json.loads((folder / "factory.json").read_text())
    told["distilled"]["num_inference_steps"] = -4
    (folder / "factory.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="num_inference_steps"):
        open_generator(folder)
