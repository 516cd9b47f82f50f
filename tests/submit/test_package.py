"""What travels: the project and named variables; never data, catalogs or secrets."""

import json
from pathlib import Path

import pytest

from factory.command_line import program
from factory.errors import ClusterError
from factory.submit.job import entrypoint, result_of
from factory.submit.package import find_catalogs, runtime_env
from factory.submit.secret import Watch

CANARY = "canary-b83e11d2c5"
WATCH = Watch.over({"LAB_TOKEN": CANARY})


def test_only_named_variables_travel(tmp_path: Path) -> None:
    environ = {"LAB_TOKEN": CANARY, "REGION": "eu", "USER": "ada", "FACTORY_LOG_FORMAT": "json"}
    packed = runtime_env(tmp_path, watch=WATCH, environ=environ, env=["REGION", "COLOUR=blue"])
    assert packed["env_vars"] == {
        "PYTHONUNBUFFERED": "1",
        "FACTORY_COMMAND": program(),
        "FACTORY_LOG_FORMAT": "json",
        "REGION": "eu",
        "COLOUR": "blue",
    }
    assert CANARY not in json.dumps(packed)


@pytest.mark.parametrize("named", ["LAB_TOKEN", f"NOTE={CANARY}", "PASSWORD=x"])
def test_a_secret_variable_is_refused_by_name(named: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=named.split("=")[0]) as refused:
        runtime_env(tmp_path, watch=WATCH, environ={"LAB_TOKEN": CANARY}, env=[named])
    assert CANARY not in str(refused.value)


def test_a_variable_without_a_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="'NOWHERE' has no value"):
        runtime_env(tmp_path, watch=WATCH, environ={}, env=["NOWHERE"])


def test_an_event_url_with_a_password_is_refused(tmp_path: Path) -> None:
    url = "http://ada:" + "secret@lineage.example"
    with pytest.raises(ClusterError, match="OPENLINEAGE_URL"):
        runtime_env(tmp_path, watch=WATCH, environ={"OPENLINEAGE_URL": url})


def test_catalogs_of_any_name_stay_here(tmp_path: Path) -> None:
    for name in ("cells", "studies/2026/polyps"):
        (tmp_path / name / "samples" / "_delta_log").mkdir(parents=True)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "cells")
    found = {path.relative_to(tmp_path).as_posix() for path in find_catalogs(tmp_path)}
    assert found == {"cells", "studies/2026/polyps"}
    excludes = runtime_env(tmp_path, watch=WATCH, environ={})["excludes"]
    assert {"/cells", "/studies/2026/polyps", "/.git", "/.venv", "/data"} <= set(excludes)


def test_a_catalog_itself_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "samples" / "_delta_log").mkdir(parents=True)
    with pytest.raises(ClusterError, match="is a catalog"):
        runtime_env(tmp_path, watch=WATCH, environ={})


def test_requirements_travel_as_lines_and_not_with_a_password(tmp_path: Path) -> None:
    file = tmp_path / "extra.txt"
    file.write_text("# pinned\n\ntimm==1.0.31  # backbones\n")
    assert runtime_env(tmp_path, watch=WATCH, environ={}, pip=file)["pip"] == ["timm==1.0.31"]
    file.write_text("--index-url https://ada:" + "secret@packages.example/simple\n")
    with pytest.raises(ClusterError, match="user and password in a URL"):
        runtime_env(tmp_path, watch=WATCH, environ={}, pip=file)


def test_a_script_gets_python_and_must_be_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "job.py").touch()
    assert entrypoint(["job.py", "-n", "3"], tmp_path) == ["python", "job.py", "-n", "3"]
    assert entrypoint(["factory", "runs"], tmp_path) == ["factory", "runs"]
    for wrong in ("other.py", str(tmp_path / "job.py")):
        with pytest.raises(ClusterError, match="there is no script"):
            entrypoint([wrong], tmp_path)


def test_the_result_is_where_the_command_says() -> None:
    assert result_of(["x.py", "--catalog", "s3://lab/wbc", "-n", "1"]) == "s3://lab/wbc"
    assert result_of(["x.py", "--output=runs/a"]) == "runs/a"
    assert result_of(["x.py", "--catalog"]) is None
