"""An ablation: what is trained and judged in which order, and how arms are compared."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from factory.errors import ConfigError
from factory.finetune import commands as training
from factory.judge import commands as judging
from factory.judge.ablate import REPORT, Arm, ablate, arms_of, compare, to_lines

Call = Callable[..., None]


def figures(kid: float) -> dict[str, object]:
    return {
        "distances": {"kid": {"value": kid}, "frechet": 10 * kid, "overlap": None},
        "judge": {"overall": {"value": 1 - kid}},
        "expert": None,
        "diversity": {},
        "ssim_to_nearest": None,
    }


def test_pairs_share_their_seed() -> None:
    """The second value is better by 0.1 under every seed, which differ by far more."""
    arms = arms_of(["0", "1"], [0, 1, 2])
    assert [arm.name for arm in arms[:3]] == ["0-seed-0", "1-seed-0", "0-seed-1"]
    found = compare({a: figures(0.2 * a.seed - 0.1 * int(a.value) + 0.3) for a in arms})
    assert [each.measure for each in found] == [
        "KID",
        "Frechet distance",
        "judge sees what was asked",
    ]
    gain = found[0].differences["1"]
    assert gain.value == pytest.approx(-0.1)
    assert gain.high - gain.low < 1e-9
    assert found[0].means["0"].n == 3
    lines = list(to_lines(found, "alignment.weight", 3))
    assert "| | alignment.weight = 0 | alignment.weight = 1 | 1 minus 0 |" in lines
    assert any(line.startswith("| KID | 0.500 [") for line in lines)


def test_one_whole_seed_compares_nothing() -> None:
    known = {Arm(value=v, seed=s): figures(0.1) for v, s in (("0", 0), ("1", 0), ("0", 1))}
    assert compare(known) == []
    assert "nothing to compare" in next(to_lines([], "key", 2))


@pytest.mark.parametrize(
    ("values", "seeds"), [(["0"], [0]), (["0", "0"], [0]), (["0", "1"], [0, 0])]
)
def test_what_compares_nothing_is_refused(values: list[str], seeds: list[int]) -> None:
    with pytest.raises(ConfigError, match="compare nothing"):
        arms_of(values, seeds)


def test_every_arm_is_trained_and_judged_once_and_the_first_stage_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.pass_context
    def finetune(context: click.Context) -> None:
        called.append(["finetune", *context.args])
        output = Path(context.args[context.args.index("--output") + 1])
        (output / "base-1").mkdir(parents=True)
        (output / "base-1" / "factory.json").write_text("{}")

    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.pass_context
    def judge(context: click.Context) -> None:
        called.append(["judge", *context.args])
        output = Path(context.args[context.args.index("--output") + 1])
        output.mkdir(parents=True)
        (output / "judge.json").write_text(json.dumps({"sets": [figures(0.1 * len(called))]}))

    monkeypatch.setattr(training, "finetune", finetune)
    monkeypatch.setattr(judging, "judge", judge)
    split, output = tmp_path / "split.json", tmp_path / "out"
    words = ["--vary", "attention_window=null,4", "--seed", "0", "--seed", "1", "--data", "cells"]
    words += ["--split", str(split), "--set", "expert=e", "--judge", "part=val", "--without-ray"]
    ablate.main([*words, "--output", str(output)], standalone_mode=False)
    assert [call[0] for call in called] == ["finetune", "judge"] * 4
    first, second = called[0], called[2]
    assert "attention_window=null" in first
    assert "seed=0" in first
    assert not [word for word in first if word.startswith("base=")]
    assert f"base={output / 'null-seed-0' / 'base-1'}" in second
    assert "--without-ray" in second
    assert called[1][1] == str(output / "null-seed-0" / "generator")
    assert "part=val" in called[1]
    assert json.loads((output / REPORT).read_text())[0]["measure"] == "KID"
    ablate.main([*words, "--output", str(output)], standalone_mode=False)
    assert len(called) == 8  # all were there
    with pytest.raises(ConfigError, match="holds an ablation of other settings"):
        ablate.main([*words, "--set", "train=full", "--output", str(output)], standalone_mode=False)
