"""A search on Ray: trials, what they draw, going on, the winner's test, what is written down."""

import json
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest

from catalog import Catalog, sql
from cluster.local import free_ports, ray_head
from factory.config import load_config, parse_config, to_yaml
from factory.device import DEVICE
from factory.errors import ConfigError, SearchError
from factory.evaluate.placement import execute_here
from factory.sample.config import GenerateConfig, StreamConfig
from factory.search import sweep
from factory.search.config import Halving, SweepConfig
from factory.search.drawer import Drawer
from factory.search.finish import finish, idle_share
from factory.search.objective import Ground
from factory.search.page import plots_of, write_page
from factory.search.sweep import run_trials
from factory.search.trials import Trial, store_study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_a_search_ends_with_the_winners_test_and_goes_on_without_drawing(ground: Ground) -> None:
    trials = run_trials(ground, at_once=1)
    assert len(trials) == 5
    assert sum(trial.drawn for trial in trials) == 50  # two ways of drawing, once each
    assert all(trial.point.keys() == ground.config.space.keys() for trial in trials)
    assert any(trial.point == ground.config.start[0] for trial in trials)
    assert trials[0].score == max(t.score for t in trials if t.trained == 2)
    assert run_trials(ground, at_once=1) == trials  # all were finished

    drawer = Drawer(ground.catalog)
    outcome = finish(ground, trials, lambda s: drawer.draw(s.generate), execute_here)
    assert set(outcome.report.arms) == {
        *("plain", "real", "oversampled", "duplicate", "winner", "synthetic")
    }
    assert outcome.report.num_test == len(ground.splits[0].test)
    assert outcome.drawn_share == 50 / 125
    best = load_config(GenerateConfig, ground.output / "best.yaml")
    assert best.guidance_scale == trials[0].point["generate.guidance_scale"]
    assert drawer.draw(best)[1] == 0  # its images are there
    told = sql(Catalog(ground.catalog), "SELECT name, arms FROM evaluations").to_pylist()
    assert told == [{"name": "small", "arms": list(outcome.report.arms)}]
    text = (ground.output / "sweep.md").read_text()
    assert "winner" in text.splitlines()[2]
    assert "Images drawn: 40%" in text
    assert len(json.loads((ground.output / "sweep.json").read_text())["trials"]) == 5

    study = store_study(trials, ground.config, ground.output)
    found = optuna.load_study(
        study_name="small", storage=f"sqlite:///{ground.output / 'optuna.db'}"
    )
    assert found.best_value == max(trial.score for trial in trials)
    plots = plots_of(ground.config, trials, study)
    write_page(ground.output / "sweep.html", ground.config, outcome, plots)
    page = (ground.output / "sweep.html").read_text()
    assert "The search: 5 trials" in page
    assert page.count("<svg") == 2 + len(plots.drawings)
    assert "data:image" not in page
    assert page.index("Against every control") < page.index("The search")

    longer = replace(ground, config=ground.config.model_copy(update={"trials": 7}))
    extended = run_trials(longer, at_once=1)
    assert len(extended) == 7
    assert [trial for trial in extended if trial in trials] == trials
    assert run_trials(longer, at_once=1) == extended
    with pytest.raises(ConfigError, match="holds a search of 7 trials, not 5"):
        run_trials(ground)

    elsewhere = replace(ground, config=ground.config.model_copy(update={"gpus_per_training": 0}))
    assert elsewhere.config.digest == ground.config.digest
    with pytest.raises(ConfigError, match="holds a search of 7 trials, not 5"):
        run_trials(elsewhere)  # as if nothing were asked for
    nowhere = replace(ground, config=ground.config.model_copy(update={"gpus_per_training": 1.0}))
    with pytest.raises(ConfigError, match="gpus_per_training is 1, and this Ray cluster has 0"):
        run_trials(nowhere)

    more = replace(ground, config=ground.config.model_copy(update={"seeds": (0, 1, 2)}))
    with pytest.raises(ConfigError, match="holds a search with another seeds"):
        run_trials(more)


def test_few_points_are_tried_once_each_and_drawing_is_told(
    ground: Ground, stored: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "TELL_SECONDS", 0.0)
    space = {"generate.guidance_scale": {"choices": [1, 2]}}
    generate = {**stored["generate"], "batch_size": 1}
    changed = stored | {"space": space, "start": (), "trials": 30, "generate": generate}
    small = replace(ground, config=parse_config(SweepConfig, changed, where="test"))
    lines: list[str] = []
    trials = run_trials(small, tell=lines.append)
    points = [tuple(trial.point.values()) for trial in trials]
    assert sorted(points) == [(1,), (2,)]
    assert any(line.startswith("drawing run-") and "/25 images" in line for line in lines)


@pytest.mark.slow
def test_the_first_error_is_shown_where_every_trial_fails(
    ground: Ground, stored: dict[str, object]
) -> None:
    space = {"arm.per_class": {"low": 50, "high": 60}}
    changed = stored | {"space": space, "start": (), "trials": 2}
    broken = replace(ground, config=parse_config(SweepConfig, changed, where="test"))
    said, ray_tune = logging.handlers.BufferingHandler(1000), logging.getLogger("ray.tune")
    ray_tune.addHandler(said)
    try:
        with pytest.raises(SearchError, match=r"all 2 trials failed.* too few synthetic images"):
            run_trials(broken, at_once=1)
    finally:
        ray_tune.removeHandler(said)
    assert not [record for record in said.buffer if record.levelno >= logging.WARNING]


def test_no_point_is_given_up_before_all_its_draws_were_trained(ground: Ground) -> None:
    few = ground.config.model_copy(update={"shots": 2, "draws": 10, "halving": Halving(grace=2)})
    found = sweep._tune_config(replace(ground, config=few), 1, 1, ())
    assert found.scheduler._max_t == len(few.seeds) * len(ground.splits) * 10


def test_idle_time_counts_gaps_between_trials() -> None:
    assert idle_share([(0, 1), (1, 2), (2, 3)]) == 0
    assert idle_share([(0, 1), (2, 3), (3, 4)]) == pytest.approx(1 / 3)
    assert idle_share([(0, 2), (0, 1), (2, 3)]) == pytest.approx(1 / 4)  # two workers
    assert idle_share([(0, 5)]) == 0


def test_two_objectives_are_stored_with_both(ground: Ground) -> None:
    config = ground.config.model_copy(update={"objective": "score_and_size"})
    trial = Trial(
        point=dict(ground.config.start[0]),
        score=0.5,
        trained=2,
        num_synthetic=20,
        drawn=0,
        asked=25,
        begun=0.0,
        ended=1.0,
    )
    ground.output.mkdir()
    study = store_study([trial], config, ground.output)
    assert study.trials[0].values == [0.5, 20.0]


COMMAND = "from factory.cli import main; main()"


@pytest.mark.fault
@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_all_its_trials(ground: Ground, tmp_path: Path) -> None:
    config = ground.config.model_copy(update={"trials": 8})
    (tmp_path / "sweep.yaml").write_text(to_yaml(config))
    ground.splits[0].save(tmp_path / "split.json")
    places = ["--data", "smear:60?seed=4&size=16", "--split", str(tmp_path / "split.json")]
    places += ["--catalog", ground.catalog.uri, "--output", str(ground.output)]
    command = [sys.executable, "-c", COMMAND, "sweep", "--config", str(tmp_path / "sweep.yaml")]
    first = subprocess.Popen([*command, *places], start_new_session=True)
    deadline = time.monotonic() + 900
    while len(list(ground.output.glob("units/*.json"))) < 5:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for process in [*psutil.Process(first.pid).children(recursive=True), first]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    first.wait()
    assert not (ground.output / "sweep.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in ground.output.glob("units/*.json")}
    done = subprocess.run([*command, *places], check=False, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert len(json.loads((ground.output / "sweep.json").read_text())["trials"]) == 8
    now = {path: path.stat().st_mtime_ns for path in ground.output.glob("units/*.json")}
    assert kept.items() <= now.items()
    text = """SELECT count(*) AS n, count(DISTINCT image_id) AS ids, count(DISTINCT run_id) AS runs
        FROM samples"""
    (row,) = sql(Catalog(ground.catalog), text).to_pylist()
    assert row == {"n": 25 * row["runs"], "ids": 25 * row["runs"], "runs": row["runs"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, "with 0.25 of a GPU each; images are drawn on 1 x 0.5 of a GPU"),
        (1.0, "1 trial at once; images are drawn on 1 x 1 GPU"),  # which the winner's test wants
    ],
)
def test_a_search_ends_where_trials_and_drawing_share_two_cores_and_a_gpu(
    ground: Ground, tmp_path: Path, asked: float | None, told: str
) -> None:
    """The GPU is a number of Ray's: what is drawn and trained with it is so on the CPU."""
    stream = StreamConfig(gpus_per_actor=asked)
    drawing = ground.config.generate.model_copy(update={"stream": stream})
    config = ground.config.model_copy(update={"generate": drawing})
    (tmp_path / "sweep.yaml").write_text(to_yaml(config))
    ground.splits[0].save(tmp_path / "split.json")
    words = ["--data", "smear:60?seed=4&size=16", "--split", str(tmp_path / "split.json")]
    words += ["--catalog", ground.catalog.uri, "--output", str(ground.output)]
    command = [sys.executable, "-c", COMMAND, "sweep", "--config", str(tmp_path / "sweep.yaml")]
    own = {DEVICE: "cpu", "RAY_AUTH_MODE": "disabled"}
    (port,) = free_ports(1)
    with ray_head("--num-cpus=2", "--num-gpus=1", port=port, **own) as head:
        at = {**os.environ, **own, "RAY_ADDRESS": head.address}
        done = subprocess.run(
            [*command, *words], check=False, capture_output=True, timeout=600, env=at
        )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert len(json.loads((ground.output / "sweep.json").read_text())["trials"]) == 5
    lines = (done.stdout + done.stderr).decode()
    assert told in lines
    assert "2 cores, with 0.25 of a GPU each" in lines  # the winner and its controls
