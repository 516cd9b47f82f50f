"""What a cluster of the factory must say to be safe; each rule answers with what is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]


def unsafe(document: Document) -> list[str]:
    """What a RayCluster or RayJob leaves open."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    return [*_authentication(cluster), *_head(cluster), *_pods(spec, cluster)]


def _authentication(cluster: Document) -> Iterator[str]:
    options = cluster.get("authOptions", {})
    if options.get("mode") != "token":
        yield "no token authentication"
    if not options.get("secretName"):
        yield "the token comes from no Secret"
    redis = cluster.get("gcsFaultToleranceOptions")
    if redis is not None and "secretKeyRef" not in str(redis.get("redisPassword")):
        yield "Redis has no password from a Secret"


def _head(cluster: Document) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "the head takes work"
    if head.get("serviceType") != "ClusterIP":
        yield "the head is reachable from outside"


def _pods(spec: Document, cluster: Document) -> Iterator[str]:
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    for name, template in groups.items():
        if template["spec"].get("automountServiceAccountToken") is not False:
            yield f"{name}: Kubernetes' token is mounted"
    templates = groups | {"head": cluster["headGroupSpec"]["template"]}
    if "submitterPodTemplate" in spec:
        templates["submitter"] = spec["submitterPodTemplate"]
    for name, template in templates.items():
        if "app.kubernetes.io/name" not in template.get("metadata", {}).get("labels", {}):
            yield f"{name}: no NetworkPolicy selects it"
        yield from (f"{name}: {what}" for what in _pod(template["spec"]))
    for name in [*groups, "head"]:
        for container in templates[name]["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{name}: no {probe}"


def _pod(pod: Document) -> Iterator[str]:
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "the pod may run as root"
    for container in pod["containers"]:
        yield from _container(container)
    writable = {volume["name"] for volume in pod.get("volumes", []) if "emptyDir" in volume}
    for container in pod["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in writable:
                yield f"{mount['mountPath']} is no emptyDir"


def _container(container: Document) -> Iterator[str]:
    held = container.get("securityContext", {})
    wanted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    yield from (f"{key} is not {value}" for key, value in wanted.items() if held.get(key) != value)
    resources = container.get("resources", {})
    for key in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(resources.get(key, {})):
            yield f"no {key} of cpu and memory"
    for variable in container.get("env", []):
        if "value" in variable and ("TOKEN" in variable["name"] or "SECRET" in variable["name"]):
            yield f"{variable['name']} stands in the file"
