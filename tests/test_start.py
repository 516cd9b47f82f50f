"""`factory start`: what it finds, proposes and goes on with; the long run is the journey's."""

import csv
import shutil
import sys
from pathlib import Path

import pytest

from factory.errors import DataError
from factory.finetune.methods import load_training
from factory.start.commands import looked_at, own_output, usual_minutes
from factory.start.plan import (
    COLOUR_STEPS,
    LAB,
    LORA_STEPS,
    PAIR_BATCH,
    PAIR_STEPS,
    PRESETS,
    Project,
    Proposal,
    Speed,
    Step,
    divisions,
    propose,
)
from factory.start.run import Journal, run_steps
from factory.start.words import about_images, about_plan, about_study
from tests.fakes import strangers
from tests.fakes.readme import unknown

SPEED = Speed(command=5, read=1, first=0.1, step=0.1, draw=0.05, look=0.01)
OPTIONS = {
    "label": None, "image": None, "group": None, "attributes": (), "root": None, "masks": None,
    "crop": None, "pixel_size_um": None, "follow_links": False, "skip_broken": False,
    "download": False,
}  # fmt: skip


def look(uri: Path, task: str | None = None, **options: object) -> tuple[Project, list[str]]:
    """Return the images, and what is said of them."""
    images, found, taken = looked_at(str(uri), {**OPTIONS, **options}, task)
    return images, list(about_images(found, images, taken))


def plan(images: Project, *, speed: Speed = SPEED, minutes: float = 60, **asked: int) -> Proposal:
    return propose(images, speed, Path("out"), minutes=minutes, **asked)


def verbs(found: Proposal) -> list[str]:
    return [step.words[0] for step in found.steps]


def test_classes_of_one_to_three_images_are_learnt_whole_and_nothing_is_claimed(
    tmp_path: Path,
) -> None:
    strangers.write_cells(tmp_path / "cells")
    for folder in (tmp_path / "cells").iterdir():
        keep = {"band": 3, "blast": 1, "eosinophil": 2}.get(folder.name, 0)
        for path in sorted(folder.iterdir())[keep:]:
            path.unlink()
        if not keep:
            folder.rmdir()
    images, lines = look(tmp_path / "cells")
    assert lines[0].endswith(f"6 images of 3 classes in {tmp_path / 'cells'}")
    assert any("blast" in line and "thin: fewer than 10" in line for line in lines)
    found = plan(images)
    assert found.division is None
    assert verbs(found) == ["real", "real", "finetune", "generate", "catalog"]
    assert "train=1" in found.steps[1].words
    assert next(about_study(found, images)).startswith("cannot show  anything")


def test_a_class_that_does_not_reach_every_part_is_left_out_and_the_others_studied(
    tmp_path: Path,
) -> None:
    images, _ = look(strangers.write_cells(tmp_path / "my cells"))
    found = plan(images)
    assert found.division is not None
    assert found.division.without == ("blast",)
    assert found.division.folds == 5
    assert verbs(found).count("finetune") == verbs(found).count("generate") == 5
    trained = next(step for step in found.steps if step.words[0] == "finetune")
    assert trained.words[trained.words.index("--without") + 1] == "blast"
    assert "without=[blast]" in found.steps[-1].words
    assert [list(unknown(step.words)) for step in found.steps] == [[] for _ in found.steps]
    said = " ".join(about_study(found, images))
    assert "blast: too few to reach every part (2 images)" in said
    assert f"{found.division.points:.0f} points of macro-F1" in said


def test_cells_that_the_base_knows_by_name_are_drawn_without_a_label(tmp_path: Path) -> None:
    root = strangers.write_cells(tmp_path / "cells")
    shutil.rmtree(root / "blast")
    kept = {"eosinophil": "Eosinophils", "monocyte": "MONOCYTE", "band": "neutro-phil"}
    for folder in [*root.iterdir()]:
        if folder.name in kept:
            folder.rename(root / kept[folder.name])
        else:
            shutil.rmtree(folder)
    images, _ = look(root)
    assert images.in_another_lab()
    trained = next(step for step in plan(images).steps if step.words[0] == "finetune")
    assert trained.words[1:4] == ("--config", "new_lab", "--set")
    asked = load_training("new_lab", [trained.words[4]])
    assert asked.classes == {"Eosinophils": "an eosinophil", "MONOCYTE": "a monocyte",
                             "neutro-phil": "a neutrophil"}  # fmt: skip
    assert "--without" not in trained.words
    (root / "MONOCYTE").rename(root / "smudge")
    assert not look(root)[0].in_another_lab()


def test_as_many_folds_as_the_time_allows(tmp_path: Path) -> None:
    images, _ = look(strangers.write_cells(tmp_path / "cells"))
    slow = Speed(command=5, read=1, first=0.1, step=0.5, draw=0.05, look=0.01)
    ways = [plan(images, speed=slow, minutes=minutes) for minutes in (1000, 90, 20)]
    assert [way.division and way.division.folds for way in ways] == [5, 3, 1]
    assert ways[0].seconds < 60_000
    assert ways[1].seconds < 5_400
    assert plan(images, speed=slow, minutes=20, folds=3).division in divisions(images)
    with pytest.raises(DataError, match="cannot be divided into 4 folds"):
        plan(images, folds=4)


def test_patients_and_masks_that_number_objects_are_taken_and_said(tmp_path: Path) -> None:
    images, lines = look(strangers.write_glands(tmp_path / "glands"))
    assert images.task == "masks"
    assert images.words == ("--masks", "object")
    assert any(line.endswith("6 groups, by patient") for line in lines)
    assert any("--masks object" in line for line in lines)
    found = plan(images, minutes=60)
    assert found.division is not None
    for split in found.division.splits:
        patients = [{images.dataset.groups[images.dataset.index_of(i)] for i in part}
                    for part in (split.train, split.val, split.test)]  # fmt: skip
        assert not patients[0] & patients[2]
        assert not patients[0] & patients[1]
    trained = next(step for step in found.steps if step.words[0] == "finetune")
    assert trained.words[:3] == ("finetune", "--config", "pairs_small")
    assert "evaluate_mask_probe" in found.steps[-1].words
    assert found.seconds <= 3600


def test_embryos_of_a_column_that_names_them_stay_together(tmp_path: Path) -> None:
    root = strangers.write_embryos(tmp_path / "embryos")
    paths = sorted(root.rglob("*.jpg"))
    for path in paths:
        (root / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, root / "images" / path.parent.name / path.name)
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "embryo"])
        for number, path in enumerate(paths):
            name = f"images/{path.parent.name}/{path.name}"
            writer.writerow([name, path.parent.name, f"E{number // 2}"])
    images, lines = look(root)
    assert images.words == ("--group", "embryo")
    assert any(line.startswith("patients     7 groups, by embryo") for line in lines)
    with pytest.raises(DataError, match="14 of 14 images have no mask"):
        look(root, task="masks")


def test_what_is_made_has_the_name_of_the_images(tmp_path: Path) -> None:
    table = tmp_path / "embryos.v2.csv"
    table.touch()
    assert own_output(str(table)) == Path("runs/embryos.v2")
    assert own_output(str(tmp_path / "cells.v2")) == Path("runs/cells.v2")
    assert own_output("smear:300?seed=1") == Path("runs/smear:300")
    assert own_output(".") == Path("runs/mine")


def test_few_images_take_a_third_of_the_hour() -> None:
    assert [usual_minutes(count) for count in (3, 100, 101)] == [20, 20, 60]


def test_each_step_tells_its_command_and_its_time(tmp_path: Path) -> None:
    images, _ = look(strangers.write_cells(tmp_path / "cells"))
    found = plan(images)
    lines = list(about_plan(found, SPEED))
    assert len(lines) == 1 + 2 * len(found.steps)
    assert all(" real describe " in line for line in lines[2:3])


def test_the_lengths_that_it_counts_with_are_those_of_the_presets() -> None:
    lora, pairs, lab = map(load_training, (PRESETS["classes"], PRESETS["masks"], LAB))
    assert lora.autoencoder.steps == lab.autoencoder.steps == COLOUR_STEPS
    assert lora.training.steps == lab.training.steps == LORA_STEPS
    assert pairs.training.steps == PAIR_STEPS
    assert pairs.training.batch_size == PAIR_BATCH


def step(tmp_path: Path, name: str, code: str) -> Step:
    return Step(title=name, words=("-c", code), writes=tmp_path / name, seconds=1)


def test_it_goes_on_after_an_interruption_and_repeats_nothing(tmp_path: Path) -> None:
    def writes(name: str) -> str:
        return f"open({str(tmp_path / name)!r}, 'a').write('x')"

    waits = f"import os; assert os.path.exists({str(tmp_path / 'ok')!r})"
    steps = [
        step(tmp_path, "a", writes("a")),
        step(tmp_path, "b", f"{writes('tried')}; {waits}; {writes('b')}"),
        step(tmp_path, "c", writes("c")),
    ]

    def go() -> tuple[int, list[str]]:
        told: list[str] = []
        journal = Journal(tmp_path, {"data": "1"})
        if not journal.steps:
            journal.agree(steps)
        return run_steps(journal, tell=told.append, command=[sys.executable]), told

    status, _ = go()
    assert status == 1
    (tmp_path / "ok").touch()
    status, told = go()
    assert status == 0
    assert told[0] == "1 of 3 steps are done"
    found = {name: (tmp_path / name).read_text() for name in ("a", "tried", "b", "c")}
    assert found == {"a": "x", "tried": "xx", "b": "x", "c": "x"}
    (tmp_path / "b").unlink()  # what is gone is made again
    assert go()[0] == 0
    assert (tmp_path / "a").read_text() == "x"
    assert Journal(tmp_path, {"data": "2"}).steps == ()
