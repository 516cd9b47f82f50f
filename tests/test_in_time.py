"""A wrong key, path or value is answered before torch, diffusers, Ray or transformers are imported.

All calls are made in one process in which these libraries cannot be imported: no clock is asked.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = """
import contextlib, io, json, sys

HEAVY = {"torch", "diffusers", "ray", "transformers", "timm", "peft", "optuna"}
asked = []

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            asked.append(name)
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Closed())
from factory.cli import main

for words in json.load(sys.stdin):
    asked.clear()
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["factory", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            status = 0
        except SystemExit as exit:
            status = exit.code
        except Exception as error:
            status = repr(error)
    done = {"status": status, "out": out.getvalue(), "err": err.getvalue(), "asked": list(asked)}
    print(json.dumps(done))
"""

GENERATE = "generate --catalog new --num-images 8"
FINETUNE = "finetune --data cells --split split.json --output new --without-ray"
SMALL = f"{FINETUNE} --set n_shot=2"
CONTROLS = "--set 'arms={real: {design: real}, more: {design: oversample}}'"
DISTILL = "distill wbc-base --output new"
PRETRAIN = "pretrain --data cells --output new --without-ray"
EVALUATE = "evaluate --data cells --split split.json --output new --without-ray"
SWEEP = "sweep --data cells --split split.json --output new --catalog new"
JUDGE = "judge wbc-base --data cells --split split.json --output new"
EXPERT = "expert --data cells --split split.json --output new"

WRONG: list[tuple[str, str, str]] = [
    # command, what it says, what to do
    ("start nowhere", "there is no dataset at 'nowhere'", "Give a local path"),
    (f"{GENERATE} --set num_imges=3", "unknown key 'num_imges'", "Known keys: model"),
    (f"{GENERATE} --set seed=many", "seed is 'many'", "Correct this value"),
    (f"{GENERATE} --set model=no", "model is False: no text", "Quote it"),
    (f"{GENERATE} --set scheduler=heun", "scheduler is 'heun': choose one of", "Correct"),
    (f"{GENERATE} --set gates.min_contrast=2", "gates.min_contrast is 2", "Correct this value"),
    (f"{GENERATE} --config nowhere.yaml", "no configuration at 'nowhere.yaml'", "Give a YAML"),
    (f"{GENERATE} --set model=nowhere", "no generator at 'nowhere'", "Give a diffusers folder"),
    (f"{GENERATE} --set model=owner/name", "no pinned revision", "Add `revision:`"),
    (f"{GENERATE} --set revision=x", "revision 'x' is asked for", "Leave revision out"),
    (f"{GENERATE} --set method=class_conditional", "is not that of generator", "Leave method out"),
    (f"{GENERATE} --set agreement.segmenter=/no", "draws none", "Leave agreement out"),
    (f"{GENERATE} --set mask_gates.min_area=0.1", "draws none", "Leave mask_gates out"),
    (f"{GENERATE} --set copies.bank=/nowhere", "no bank of training images", "Make one"),
    (f"{GENERATE} --set 'classes={{unicorn: a}}'", "'unicorn' is unknown to", "Choose from"),
    (f"{GENERATE} --set options.x=1", "method 'text' has no options", "Leave options out"),
    (f"{GENERATE} --set references=[a]", "no data to show is named", "leave references out"),
    (f"{GENERATE} --set split=split.json", "no data to show is named", "leave split out"),
    (f"{GENERATE} --set data=nowhere --set split=split.json", "no dataset at 'nowhere'", "Give a"),
    (f"{GENERATE} --set data=cells --set split=nowhere", "not a readable split", "Write one"),
    (f"{GENERATE} --set data=cells --set split=split.json", "shows no real image", "Leave data"),
    (f"{GENERATE} --address 127.0.0.1:1", "no Ray head answers", "ray start --head"),
    (f"{GENERATE} --resume run-1", "keeps the configuration", "Leave out --set"),
    ("generate --catalog nowhere --resume run-1", "there is no catalog at", "Check the"),
    ("generate --catalog catalog --resume run-9", "run-9", "List them with"),
    ("generate --catalog /proc/x", "is no writable folder", "Check the path"),
    ("generate --catalog file", "is no writable folder", "Check the path"),
    ("generate --config adbd --catalog new", "starts from real images", "Set data:"),
    (f"{FINETUNE} --set stepz=3", "unknown key 'stepz'", "Known keys: method"),
    (f"{FINETUNE} --set training.steps=x", "training.steps is 'x'", "Correct this value"),
    (f"{FINETUNE} --set method=gan", "unknown method 'gan'", "Choose one of text"),
    (f"{FINETUNE} --set base=nowhere", "no generator at 'nowhere'", "Give a diffusers"),
    (f"{FINETUNE} --set revision=x", "revision 'x' is asked for", "Leave revision out"),
    (f"{FINETUNE} --set validation.features=/no", "features is '/no'", "Correct the path"),
    (f"{FINETUNE} --set expert=cells --set alignment.weight=1", "no whole expert", "Copy the"),
    (f"{SMALL} --class unicorn", "class 'unicorn' is not in the dataset", "Its classes are"),
    (f"{FINETUNE} --config polyp_pairs_train --set base=/no", "no generator at '/no'", "Give a"),
    (f"{FINETUNE.replace('split.json', 'no.json')}", "not a readable split", "Write"),
    (f"{FINETUNE.replace('cells', 'nowhere')}", "no dataset at 'nowhere'", "Give a local path"),
    (f"{SMALL.replace('new', '/proc/x')}", "'/proc/x' cannot be written", "Choose another place"),
    (f"{SMALL.replace('--without-ray', '--address 127.0.0.1:1')}", "no Ray head", "Start"),
    (f"{EVALUATE} --set learner.task=read", "is probe, classify or segment", "Correct"),
    (f"{EVALUATE} --set learner.weights=/no", "weights is '/no'", "Correct the path"),
    (f"{EVALUATE} --config evaluate_clip --set learner.clip.folder=/no", "no CLIP", "Give"),
    (f"{EVALUATE} --set arms={{}}", "arms is {}", "Correct this value"),
    (EVALUATE, "no catalog has them", "Give --catalog"),
    (f"{EVALUATE} --catalog nowhere", "there is no catalog at 'nowhere'", "Check the"),
    (f"{EVALUATE} --release a", "--release without --catalog", "Give --catalog"),
    (f"{EVALUATE} {CONTROLS} --seen nowhere", "no dataset at 'nowhere'", "Give a local path"),
    (f"{EVALUATE} {CONTROLS} --set subgroups=ward", "an attribute 'ward'", "Choose of"),
    (f"{EVALUATE} --catalog catalog --set synthetic.where=no=1", '"no" not found', "see columns"),
    (f"{EVALUATE.replace('split.json', 'no.json')}", "not a readable split", "Write"),
    (f"{EVALUATE.replace('--without-ray', '--address 127.0.0.1:1')}", "no Ray head", "Start"),
    (f"{SWEEP} --set trials=0", "trials is 0", "Correct this value"),
    (f"{SWEEP} --set generate.model=nowhere", "no generator at 'nowhere'", "Give a diffusers"),
    (f"{SWEEP} --set 'space={{arm.size: {{choices: [1]}}}}' --set start=[]", "arm.size", "ratio"),
    (f"{SWEEP.replace('--output new', '--output /proc/x')}", "cannot be written", "Choose another"),
    (f"{SWEEP.replace('--catalog new', '--catalog /proc/x')}", "no writable folder", "Check the"),
    (f"{SWEEP} --address 127.0.0.1:1", "no Ray head answers", "Start a head"),
    (f"{EXPERT} --set x=1", "unknown key 'x'", "Known keys: backbone"),
    (f"{EXPERT} --weights no", "no weights at 'no'", "Correct --weights"),
    (f"{EXPERT.replace('cells', 'nowhere')}", "no dataset at 'nowhere'", "Give a local path"),
    ("bank --data cells --split no.json --out new", "not a readable split", "Write one"),
    ("bank --data no --split split.json --out new", "no dataset at 'no'", "Give a local"),
    (
        "cluster-images --data cells --split split.json --features no --out new",
        "no weights at 'no'",
        "Correct the path",
    ),
    (
        "segmenter --data cells --split split.json --out /proc/x",
        "'/proc/x' cannot be written",
        "Choose another place",
    ),
    (f"{JUDGE} --set x=1", "unknown key 'x'", "Known keys: generate"),
    (f"{JUDGE} --set features=/no", "features is '/no'", "Correct the path"),
    (f"{JUDGE.replace('wbc-base', 'no')}", "no generator at 'no'", "Give a diffusers"),
    (f"{JUDGE.replace('split.json', 'no.json')}", "not a readable split", "Write one"),
    (f"{JUDGE.replace('cells', 'no')}", "no dataset at 'no'", "Give a local"),
    ("ablate --vary a=1 --data cells --split split.json --output new", "compare nothing", "Give"),
    ("mix --data cells --split no.json --catalog catalog --out new", "not a readable", "Write"),
    ("mix --data cells --split split.json --catalog catalog --out cells", "is there", "Name a new"),
    ("memory --set x=1", "unknown key 'x'", "Known keys: method"),
    ("memory --set base=nowhere", "no generator at 'nowhere'", "Give a diffusers folder"),
    ("memory --config blastdiffusion --set autoencoder.base=/no", "no generator at", "Give a"),
    (f"{PRETRAIN} --set x=1", "unknown key 'x'", "Known keys: method"),
    (f"{PRETRAIN} --config cytodiff", "no configuration of a base", "Give one such as wbc_base"),
    (f"{PRETRAIN} --set denoiser.base=/no", "no generator at '/no'", "Give a diffusers folder"),
    (f"{PRETRAIN} --split no.json", "not a readable split", "Write"),
    ("distill nowhere --output new", "no generator at 'nowhere'", "Give a diffusers folder"),
    (f"{DISTILL} --set teacher.scheduler=ddpm", "choose one that comes to the same", "Correct"),
    (f"{DISTILL} --set steps=5", "12 is no multiple of steps 5", "Correct"),
    ("bridge --out b --domain a", "no NAME=MODEL[:CLASS]", "Write --domain"),
    ("bridge --out b --domain a=no:x --domain b=no:y", "no generator at 'no'", "Give a diffusers"),
    ("bridge --out b --domain a=wbc-base:x --domain b=wbc-base", "no class 'x'", "Choose one of"),
    ("regenerate x --catalog catalog", "image 'x' is not in version", "List ids with"),
    ("regenerate --sample many --catalog catalog", "--sample 'many'", "Write --sample 64"),
    ("regenerate --catalog catalog", "no images to redraw", "Give image ids"),
    ("catalog show x --catalog catalog", "image 'x' is not in version", "List ids with"),
    ("catalog sql SELEC --catalog catalog", "syntax error", "Correct the SQL"),
    ("catalog remove run-9 --catalog catalog", "there is no run 'run-9'", "List them with"),
    ("catalog history --catalog nowhere", "there is no catalog at", "Check the"),
    ("catalog strip x --catalog catalog", "'x'", "Draw some with"),
    ("catalog embed --catalog nowhere", "there is no catalog at", "Check the"),
    ("catalog embed --catalog catalog --features no", "no weights at 'no'", "Correct --features"),
    ("agent --catalog nowhere", "there is no catalog at", "Check the"),
    ("agent --catalog catalog --model /no", "no generator at '/no'", "Give a"),
    ("export csv --out o --catalog nowhere", "there is no catalog at", "Check the"),
    ("release verify r@1.0.0 --redraw 4 --catalog catalog", "r@1.0.0", "release list"),
    ("gallery --host 0.0.0.0 --catalog catalog", "no token to ask them for", "Make one with"),
    ("review --catalog catalog", "there is no token to ask them for", "Make one with"),
    ("review --catalog nowhere --token-file token", "there is no catalog at", "Check the"),
    ("review --catalog catalog --token-file token --reviewer -", "has no name", "Give one"),
    ("submit --address ray -- jobs/generate_wbc.py", "no dashboard's address", "Give http"),
    ("marks nowhere.png", "'nowhere.png' cannot be read", "Give a PNG file"),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every call of `WRONG` answered, in a folder with cells, their split and a catalog."""
    from factory.real.smear import write_smear
    from factory.real.sources import open_dataset
    from tests.fakes.gallery import catalog_at
    from tests.fakes.splits import split_of

    home = tmp_path_factory.mktemp("home")
    write_smear(home / "cells", 40, seed=0, size_px=32)
    split_of(open_dataset(str(home / "cells")), train=0.6, val=0.2, test=0.2).save(
        home / "split.json"
    )
    catalog_at(home / "catalog")
    (home / "file").write_text("")
    (home / "token").write_text("a token that nobody guesses")
    before = sorted(home.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([shlex.split(command) for command, _, _ in WRONG]),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(home.rglob("*")) == before, "a wrong call left something behind"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip([command for command, _, _ in WRONG], lines, strict=True))


@pytest.mark.parametrize(("command", "what", "remedy"), WRONG, ids=[c for c, _, _ in WRONG])
def test_what_is_wrong_is_told_before_anything_heavy_is_imported(
    answers: dict[str, dict[str, Any]], command: str, what: str, remedy: str
) -> None:
    told = answers[command]
    assert told["asked"] == []
    assert told["status"] == 1, told
    assert told["err"].startswith("error: ")
    assert len(told["err"].splitlines()) == 1, told["err"]
    assert what in told["err"]
    assert remedy in told["err"].partition(what)[2]


def test_every_command_that_could_be_heavy_is_tried() -> None:
    """A new command wants a line in `WRONG`, unless it only reads files of its own."""
    from factory.cli import cli

    tried = {command.split()[0] for command, _, _ in WRONG}
    assert set(cli.commands) - tried == {"real", "runs", "lineage", "forget", "prepare"}


def test_the_tests_own_guard_holds() -> None:
    """A call that does import torch is seen: `memory` of the base that ships with the factory."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([["memory"]]),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["asked"][0] == "torch"
