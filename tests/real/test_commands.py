import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from factory.errors import DataError, OutputError
from factory.real.commands import real
from factory.real.smear import write_smear
from tests.real.builders import class_folder, encoded, png, put, write_table

SMEAR = "smear:60?size=16"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(real, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_describe_prints_figures_and_writes_the_sheet(tmp_path):
    out = run("describe", SMEAR, "--sheet", tmp_path / "s.png")
    assert "60, 60 with masks" in out
    assert "16x16 (60)" in out
    assert "eosinophil" in out
    assert "majority rate 0.200" in out
    assert Image.open(tmp_path / "s.png").size[0] > 100


def test_describe_as_json_is_json():
    found = json.loads(run("describe", SMEAR, "--json"))
    assert found["classes"]["monocyte"] == 12


def test_skip_broken_lists_the_file(tmp_path):
    put(class_folder(tmp_path) / "a/0.png", b"")
    assert "a/0.png is empty" in run("describe", tmp_path, "--skip-broken")
    with pytest.raises(DataError, match=r"a/0\.png is empty"):
        run("describe", tmp_path)


def test_what_split_leaves_out_is_listed_once(tmp_path):
    put(class_folder(tmp_path / "set") / "a/0.png", b"")
    arguments = ["describe", tmp_path / "set", "--skip-broken"]
    assert run(*arguments).count("a/0.png is empty") == 1
    arguments = ["split", tmp_path / "set", "--skip-broken", "--fractions", "train=.5,val=.5"]
    assert run(*arguments, "--out", tmp_path / "s.json").count("a/0.png is empty") == 1


def test_long_sets_of_near_duplicates_are_cut(tmp_path):
    for n in range(9):
        put(tmp_path / f"a/{n}.png", png(1))
    assert "= a/4 = ... (9 in all)" in run("describe", tmp_path)


def test_split_verify_and_shots_work_together(tmp_path):
    path = tmp_path / "split.json"
    assert "train 40, val 10, test 10" in run(
        "split", SMEAR, "--out", path, "--fractions", "train=.66,val=.17,test=.17"
    )
    assert "holds for" in run("verify", path, SMEAR)
    with pytest.raises(DataError, match="was made for dataset"):
        run("verify", path, SMEAR + "&seed=1")
    drawn = json.loads(run("shots", path, SMEAR, "-n", "3"))
    assert {len(ids) for ids in drawn.values()} == {3}
    run("shots", path, SMEAR, "-n", "3", "--out", tmp_path / "shots.json")
    assert json.loads((tmp_path / "shots.json").read_text()) == drawn


def test_folds_are_written_beside_each_other(tmp_path):
    run("split", SMEAR, "--out", tmp_path / "cv.json", "--folds", "3")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cv.0.json", "cv.1.json", "cv.2.json"]


def test_shots_of_another_datasets_split_are_refused(tmp_path):
    run("split", SMEAR, "--out", tmp_path / "split.json")
    with pytest.raises(DataError, match="was made for dataset"):
        run("shots", tmp_path / "split.json", "smear:21?size=16", "-n", "1")


@pytest.mark.parametrize("below", ["", "sub"])
@pytest.mark.parametrize(
    "command",
    [
        ["describe", SMEAR, "--sheet"],
        ["split", SMEAR, "--out"],
        ["shots", "{split}", SMEAR, "-n", "1", "--out"],
        ["smear", "-n", "2", "--size-px", "16", "--out"],
    ],
)
def test_an_output_that_cannot_be_written_is_named(tmp_path, command, below):
    run("split", SMEAR, "--out", tmp_path / "split.json")
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "x" / below
    words = [word.format(split=tmp_path / "split.json") for word in command]
    with pytest.raises(OutputError, match=r"file/x.*cannot be written.*Choose another place"):
        run(*words, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_part_named_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="name a part twice"):
        run("split", SMEAR, "--out", tmp_path / "x.json", "--fractions", "train=1,train=1")


def test_unreadable_fractions_show_an_example(tmp_path):
    with pytest.raises(DataError, match=r"'80/20' cannot be read\. Write train=0\.8"):
        run("split", SMEAR, "--out", tmp_path / "x.json", "--fractions", "80/20")
    assert list(tmp_path.iterdir()) == []


def test_smear_writes_a_folder_that_describe_reads(tmp_path):
    run("smear", "--out", tmp_path / "demo", "-n", "10", "--size-px", "16", "--stain-hue", "-0.5")
    assert "10, 10 with masks" in run("describe", tmp_path / "demo", "--group", "slide")


def test_help_of_every_command_has_an_example():
    for name, command in real.commands.items():
        assert f"factory real {name}" in command.help


def fails(*arguments) -> tuple[str, DataError]:
    result = CliRunner().invoke(real, [str(a) for a in arguments])
    assert isinstance(result.exception, DataError), result.output
    return result.output, result.exception


def test_describe_lists_everything_and_ends_with_an_error(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/0.png", b"")
    put(root / "a/3.png", png(3)[:50])
    put(root / "b/7_mask.png", png(7))
    put(root / "a/old.psd", b"x")
    out, error = fails("describe", root)
    for text in (
        "images       4",
        "broken       2",
        "a/0.png is empty",
        "a/3.png",
        "faults       1",
    ):
        assert text in out
    assert "7_mask.png is the mask of no image" in out
    assert "not read: 1 (.psd 1; for example a/old.psd)" in out
    assert "3 things are wrong with" in error.what
    assert "--skip-broken" in error.remedy
    out, error = fails("describe", root, "--skip-broken", "--json")
    assert len(json.loads(out)["faults"]) == 1
    (root / "b/7_mask.png").unlink()
    assert "broken       2" in run("describe", root, "--skip-broken")


def test_describe_tells_mask_values_and_takes_a_rule(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    assert "masks        values 0 (25 %), 40 (25 %), 80 (25 %), 120 (25 %)" in run("describe", root)
    out = run("describe", root, "--masks", "object")
    assert "masks        values 0 (25 %), 255 (75 %), read by the rule object" in out
    assert "not read: 4 (mask 4;" in run("describe", root, "--masks", "none")


def test_split_tells_groups_a_table_and_what_is_thin(tmp_path):
    for n in range(24):
        put(tmp_path / "set" / f"images/{'ab'[n % 2]}/{n}.png", png(n))
    put(tmp_path / "set" / "images/c/24.png", png(24))
    rows = [
        {"file": f"images/{'ab'[n % 2] if n < 24 else 'c'}/{n}.png", "patient": str(n // 3)}
        for n in range(25)
    ]
    write_table(tmp_path / "set/metadata.csv", rows)
    out = run("split", tmp_path / "set", "--out", tmp_path / "s.json")
    assert "groups       by patient; 9 to divide" in out
    assert "  class                      train     val    test" in out
    assert "warning: " in out
    assert "holds no image of c" in out
    assert "holds one group only (patient '" in out
    out = run("split", tmp_path / "set", "--out", tmp_path / "f.json", "--folds", "5")
    assert "test 0  test 1  test 2  test 3  test 4" in out
    assert "c: no image in train of 2, val of 4, test of 4 of the 5 folds" in out
    assert "test holds one group only in 1 of the 5 folds" in out


def test_every_look_ends_with_what_can_be_typed_next(tmp_path):
    def last(*arguments):
        return shlex.split(run(*arguments).splitlines()[-1])[2:]  # next PROGRAM

    root, places = tmp_path / "b c", ("--out", tmp_path / "s.json")
    for n in range(24):
        put(root / f"{'ab'[n % 2]}/{n}.png", png(n))
    assert last("describe", root) == ["real", "split", str(root), "--out", "split.json"]
    words = last("split", root, *places, "--skip-broken")
    data = ["--data", str(root), "--skip-broken", "--split", str(tmp_path / "s.json")]
    assert words == ["finetune", *data, "--output", "runs/mine"]
    put(root / "c/1.png", png(99))
    assert last("split", root, *places)[-4:] == ["--without", "c", "--output", "runs/mine"]
    write_smear(tmp_path / "pairs", 12, seed=0, size_px=16)  # two or three of each class
    words = last("split", tmp_path / "pairs", "--out", tmp_path / "p.json")
    assert words[:3] == ["finetune", "--config", "pairs_small"]
    assert "--without" not in words  # val and test judge masks, not classes


def test_a_column_that_may_be_the_classes_of_one_folder_is_proposed(tmp_path):
    for n in range(6):
        put(tmp_path / f"jpgs/{n}.png", png(n))
    head = "image_id,dx,lesion_id,age\n"
    rows = "".join(
        f"{n},{'mel' if n % 2 else 'nv'},{n // 2},{40 + n if n else ''}\n" for n in range(6)
    )
    (tmp_path / "metadata.csv").write_text(head + rows)
    told = CliRunner().invoke(real, ["describe", str(tmp_path)]).output
    assert "all images are of one class, 'jpgs': if column 'dx' (nv, mel) holds" in told
    assert "pass --label dx" in told
    named = CliRunner().invoke(real, ["describe", str(tmp_path), "--label", "dx"]).output
    assert "all images are of one class" not in named
    (tmp_path / "metadata.csv").rename(tmp_path / "cells.csv")
    told = " ".join(CliRunner().invoke(real, ["describe", str(tmp_path)]).output.split())
    assert "cells.csv is not read: if it says of which class" in told
    assert "or call it metadata.csv" in told


def test_a_class_is_not_left_out_where_one_alone_would_stay(tmp_path):
    for n in range(12):
        put(tmp_path / f"set/{'a' if n < 11 else 'b'}/{n}.png", png(n))
    out = run("split", tmp_path / "set", "--out", tmp_path / "s.json")
    assert "holds no image of b" in out
    assert "--without" not in out.splitlines()[-1]


def test_masks_that_number_objects_are_told_and_no_pairs_proposed(tmp_path):
    for n in range(9):
        put(tmp_path / f"set/images/a/{n}.png", png(n))
        mask = np.zeros((10, 12), np.uint8)
        mask[1:5] = np.arange(12) % (3 + n % 2)
        put(tmp_path / f"set/masks/a/{n}.png", encoded(mask))
    out = run("describe", tmp_path / "set")
    assert "the masks seem to number objects" in out
    assert out.splitlines()[-1].endswith(f"{tmp_path}/set --masks object --out split.json")
    out = run("split", tmp_path / "set", "--out", tmp_path / "s.json")
    assert "the masks seem to number objects" in out
    assert "pairs_small" not in out
    out = run("split", tmp_path / "set", "--masks", "object", "--out", tmp_path / "s.json")
    assert "number objects" not in out
    assert "factory finetune --config pairs_small --data" in out.splitlines()[-1]
