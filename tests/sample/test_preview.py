"""A preview shows what the run will draw, says what it will take, and publishes nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from factory.models.generator import Generator
from factory.sample.commands import generate
from factory.sample.config import GenerateConfig
from factory.sample.prepare import Run, prepare
from factory.sample.preview import few, preview


def run_of(tiny: Generator, tmp_path: Path, **changes: object) -> Run:
    known = {
        "model": str(tiny.folder),
        "num_images": 40,
        "num_inference_steps": 2,
        "batch_size": 8,
        "seed": 3,
        "gates": None,
    }
    config = GenerateConfig.model_validate(known | changes)
    return prepare(config, str(tmp_path / "catalog"))


def test_its_images_are_requests_of_the_run_of_every_class(tiny: Generator, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path)
    shown = [request for batch in few(run.plan) for request in batch.requests]
    planned = {r.image_id for batch in run.plan.batches() for r in batch.requests}
    assert len({request.image_id for request in shown} & planned) == len(shown) == 10
    assert set(Counter(r.recipe.class_name for r in shown)) == set(tiny.class_names)
    assert len([r for b in few(run.plan, 100) for r in b.requests]) == 40


def test_it_says_what_gates_refuse_and_what_all_would_take(tiny: Generator, tmp_path: Path) -> None:
    strict = run_of(tiny, tmp_path, gates={"min_contrast": 0.9})
    found = preview(strict, tmp_path / "ten.png", price_per_hour=3600.0)
    lines = list(found.lines())
    assert lines[0] == "accepted 0 of 10"
    assert lines[1].startswith(f"refused  {found.classes[0]}: blank: ")
    assert f"cost {found.seconds:.2f} at 3600 an hour" in lines[-2]
    assert found.seconds == found.seconds_per_image * 40
    assert np.asarray(Image.open(tmp_path / "ten.png")).std() > 1
    assert not (tmp_path / "catalog").exists()
    assert preview(run_of(tiny, tmp_path), tmp_path / "ten.png").refused == 0


def test_the_command_proposes_the_run_that_was_shown(tiny: Generator, tmp_path: Path) -> None:
    uri, png = str(tmp_path / "catalog"), str(tmp_path / "ten.png")
    words = ["--set", f"model={tiny.folder}", "--set", "num_inference_steps=1", "--catalog", uri]
    done = CliRunner().invoke(generate, [*words, "--num-images", "12", "--preview", png])
    assert done.exit_code == 0, done.output
    last = done.output.splitlines()[-1]
    assert " generate " in last
    seed = next(word for word in last.split() if word.startswith("seed="))
    assert "num_images=12" in last
    assert last.endswith(f"--catalog {uri}")
    again = CliRunner().invoke(generate, [*words, "--set", seed, "--num-images", "12",
                                          "--without-ray"])  # fmt: skip
    assert again.exit_code == 0, again.output
    run_id = done.output.partition(":")[0]
    assert again.output.startswith(f"{run_id}: 12 images")


def test_drawing_in_this_process_does_not_import_ray() -> None:
    code = "import sys, factory.sample.batches, factory.sample.console; print('ray' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
