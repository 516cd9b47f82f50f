"""The files of cluster/kuberay say what they mean: known fields, and nothing unsafe."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.rules import unsafe

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kubernetes.schema.json").read_text())
FILES = ("base.yaml", "raycluster.yaml", "rayjob.yaml", "podmonitor.yaml")
Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    # through JSON: YAML's anchors become copies, which a test can change one at a time
    return json.loads(json.dumps(list(yaml.safe_load_all((KUBERAY / name).read_text()))))


ALL = [(name, document) for name in FILES for document in documents(name)]
RAY = [(name, document) for name, document in ALL if document["kind"].startswith("Ray")]


def problems(document: Document, kind: str | None = None) -> list[str]:
    schema = SCHEMA | {"$ref": f"#/$defs/{kind or document['kind']}"}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]


def changed(document: Document, path: Sequence[str | int], value: object) -> Document:
    """A copy with another value at `path`; None removes it."""
    new = copy.deepcopy(document)
    place: Any = new
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return new


def cluster_of(document: Document) -> tuple[str, ...]:
    return ("spec", "rayClusterSpec") if document["kind"] == "RayJob" else ("spec",)


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(("name", "document"), ALL, ids=lambda x: x if isinstance(x, str) else "")
def test_every_field_is_known(name: str, document: Document) -> None:
    assert not problems(document)
    if document["kind"] != "Namespace":
        assert document["metadata"]["namespace"] == "factory"


@pytest.mark.parametrize(("name", "document"), RAY, ids=lambda x: x if isinstance(x, str) else "")
def test_nothing_is_left_open(name: str, document: Document) -> None:
    assert not unsafe(document)


HEAD = ("headGroupSpec", "template", "spec")
MISSPELT: list[tuple[tuple[str | int, ...], object]] = [
    (("authOption",), {"mode": "token"}),
    (("authOptions", "mode"), "tokens"),
    (("authOptions", "secret"), "ray-token"),
    (("headGroupSpec", "rayStartParam"), {}),
    ((*HEAD, "container"), []),
    ((*HEAD, "containers", 0, "readinesProbe"), {}),
    ((*HEAD, "containers", 0, "securityContext", "readOnlyRootFileSystem"), True),
    ((*HEAD, "containers", 0, "resources", "limit"), {}),
    ((*HEAD, "volumes", 0, "emptydir"), {}),
    (("workerGroupSpecs", 0, "maxReplica"), 3),
    (("workerGroupSpecs", 0, "template", "spec", "tolerations", 0, "efect"), "NoSchedule"),
    (("headGroupSpec", "rayStartParams", "num-cpus"), 0),  # Ray's start wants text
]


@pytest.mark.parametrize(("path", "value"), MISSPELT)
@pytest.mark.parametrize(("name", "document"), RAY, ids=lambda x: x if isinstance(x, str) else "")
def test_a_misspelt_field_is_found(
    name: str, document: Document, path: tuple[str | int, ...], value: object
) -> None:
    assert problems(changed(document, (*cluster_of(document), *path), value))


OPEN: list[tuple[tuple[str | int, ...], object, str]] = [
    (("authOptions",), None, "no token authentication"),
    (("authOptions", "mode"), "disabled", "no token authentication"),
    (("authOptions", "secretName"), None, "no Secret"),
    (("headGroupSpec", "serviceType"), "LoadBalancer", "reachable from outside"),
    (("headGroupSpec", "rayStartParams", "num-cpus"), "8", "takes work"),
    ((*HEAD, "containers", 0, "securityContext"), None, "readOnlyRootFilesystem"),
    ((*HEAD, "securityContext", "runAsNonRoot"), False, "root"),
    ((*HEAD, "containers", 0, "resources", "limits"), None, "no limits"),
    ((*HEAD, "containers", 0, "livenessProbe"), None, "no livenessProbe"),
    (("headGroupSpec", "template", "metadata"), None, "NetworkPolicy"),
    (("workerGroupSpecs", 0, "template", "spec", "automountServiceAccountToken"), None, "token"),
]


@pytest.mark.parametrize(("path", "value", "wrong"), OPEN)
@pytest.mark.parametrize(("name", "document"), RAY, ids=lambda x: x if isinstance(x, str) else "")
def test_an_opened_cluster_is_found(
    name: str, document: Document, path: tuple[str | int, ...], value: object, wrong: str
) -> None:
    found = unsafe(changed(document, (*cluster_of(document), *path), value))
    assert any(wrong in what for what in found)


def test_a_password_in_the_file_is_found() -> None:
    (cluster,) = documents("raycluster.yaml")
    path = ("spec", "gcsFaultToleranceOptions", "redisPassword")
    assert unsafe(changed(cluster, path, {"value": "abc"}))


def test_job_and_cluster_say_the_same() -> None:
    (cluster,), (job,) = documents("raycluster.yaml"), documents("rayjob.yaml")
    of_cluster = {k: v for k, v in cluster["spec"].items() if k != "gcsFaultToleranceOptions"}
    assert job["spec"]["rayClusterSpec"] == of_cluster


def test_the_wall_lets_in_only_whom_it_names() -> None:
    (policy,) = [d for d in documents("base.yaml") if d["kind"] == "NetworkPolicy"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["spec"]["ingress"]:
        assert all("podSelector" in peer for peer in rule["from"])  # nobody by namespace alone
    outside = [rule for rule in policy["spec"]["egress"] if "to" not in rule]
    assert [rule["ports"] for rule in outside] == [[{"protocol": "TCP", "port": 443}]]


def test_workers_get_no_token_of_kubernetes() -> None:
    accounts = {
        d["metadata"]["name"]: d["automountServiceAccountToken"]
        for d in documents("base.yaml")
        if d["kind"] == "ServiceAccount"
    }
    assert accounts == {"factory": False, "factory-head": True}


def test_helm_values_are_known_and_ask_for_the_token() -> None:
    values = json.loads(json.dumps(yaml.safe_load((KUBERAY / "values.yaml").read_text())))
    assert not problems(values, "HelmValues")
    assert problems(changed(values, ("head", "rayStartParam"), {}), "HelmValues")
    env = {each["name"]: each for each in values["common"]["containerEnv"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "ray-token"
    for group in (values["head"], values["worker"], *values["additionalWorkerGroups"].values()):
        assert group["securityContext"]["readOnlyRootFilesystem"]
        assert group["podSecurityContext"]["runAsNonRoot"]


def test_the_ray_of_the_files_is_the_one_that_is_tested() -> None:
    pinned = next(
        line.partition("==")[2]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    (cluster,) = documents("raycluster.yaml")
    values = yaml.safe_load((KUBERAY / "values.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == values["head"]["rayVersion"] == pinned
