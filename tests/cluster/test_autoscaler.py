"""The autoscaler's files are what Ray itself takes, with a token, spot GPUs and an idle head."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
Config = dict[str, Any]


def config(cloud: str) -> Config:
    return json.loads(
        json.dumps(yaml.safe_load((CLUSTER / f"autoscaler/{cloud}.yaml").read_text()))
    )


def check(found: Config) -> None:
    """Validate as `ray up` does."""
    import ray

    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(found, json.loads(path.read_text()))


def open_parts(found: Config) -> list[str]:
    """What a cluster leaves open."""
    wrong = []
    if "--env RAY_AUTH_MODE=token" not in found.get("docker", {}).get("run_options", []):
        wrong.append("no token authentication")
    if not any(place.endswith("/.ray/auth_token") for place in found.get("file_mounts", {})):
        wrong.append("nodes have no token")
    if not found["provider"].get("use_internal_ips"):
        wrong.append("nodes have public addresses")
    start = " ".join(found["head_start_ray_commands"])
    if "--dashboard-host=127.0.0.1" not in start:
        wrong.append("the dashboard is open")
    return wrong


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_takes_the_file_and_nothing_is_open(cloud: str) -> None:
    found = config(cloud)
    check(found)
    assert not open_parts(found)
    types = found["available_node_types"]
    assert types[found["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["draw"]["resources"]["GPU"] == 1
    assert "GPU" not in types["encode"]["resources"]
    assert found["max_workers"] == types["draw"]["max_workers"] + types["encode"]["max_workers"]
    assert "--num-cpus=0" in " ".join(found["head_start_ray_commands"])


def test_gpus_are_spot_and_the_rest_is_not() -> None:
    aws = {n: t["node_config"] for n, t in config("aws")["available_node_types"].items()}
    assert {n for n, c in aws.items() if "InstanceMarketOptions" in c} == {"draw"}
    gcp = {n: t["node_config"] for n, t in config("gcp")["available_node_types"].items()}
    assert {n for n, c in gcp.items() if {"preemptible": True} in c.get("scheduling", [])} == {
        "draw"
    }


def test_nodes_of_aws_hand_their_role_to_nobody_else() -> None:
    for node in config("aws")["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert node["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_misspelt_and_opened_files_are_found(cloud: str) -> None:
    for path in (["idle_timeout_minute"], ["docker", "run_option"], ["auth", "ssh_usr"]):
        wrong = copy.deepcopy(config(cloud))
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "x"
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)
    opened = config(cloud)
    opened["docker"]["run_options"].remove("--env RAY_AUTH_MODE=token")
    del opened["file_mounts"]
    assert open_parts(opened) == ["no token authentication", "nodes have no token"]


def test_no_file_holds_a_secret() -> None:
    from factory.submit.secret import Watch

    files = [p for p in CLUSTER.rglob("*") if p.suffix in (".yaml", ".yml", ".json", ".py")]
    files += CLUSTER.rglob("Dockerfile*")
    assert len(files) > 8
    for path in files:
        assert Watch().reason(path.read_text()) is None, path


def test_the_image_is_pinned_and_not_root() -> None:
    text = (CLUSTER / "docker" / "Dockerfile").read_text()
    installs = [line for line in re.sub(r"\\\n", " ", text).splitlines() if "pip install" in line]
    assert any("-c constraints.txt" in line for line in installs)
    last = [line for line in text.splitlines() if line.startswith("USER ")][-1]
    assert last == "USER ${UID}"
    uid = re.search(r"^ARG UID=(\d+)$", text, re.M)
    assert uid is not None
    assert int(uid[1]) > 0
    assert not re.search(r"^\s*(ADD|COPY) \. ", text, re.M)  # only what is named
