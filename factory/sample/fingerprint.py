"""What machine and software drew an image: the engine fingerprint stored in every row."""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

THREADS = "threads"
MOST_THREADS = 256
"""That are taken at anybody's word."""


@cache
def engine_fingerprint(device: str, dtype: str) -> dict[str, str]:
    """Return what can change bits at equal recipe: device, kernels and library versions.

    Workers change nothing at a fixed batch shape. Threads of a CPU may: see `threads_of`.
    """
    import diffusers
    import numpy
    import torch
    import transformers

    return {
        "device": device,
        "device_name": _device_name(device),
        "dtype": dtype,
        "kernels": _kernels(device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def threads_of(device: str) -> dict[str, str]:
    """Return in how many threads a CPU computes now: on some, sums are cut by their number."""
    import torch

    return {THREADS: str(torch.get_num_threads())} if device == "cpu" else {}


def recorded_threads(fingerprint: Mapping[str, Any]) -> int:
    """Return how many threads drew an image: one where it does not say so, as an actor's."""
    told = str(fingerprint.get(THREADS, "1"))
    return int(told) if told in map(str, range(1, MOST_THREADS + 1)) else 1


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return 'name: first -> second' for every entry in which two fingerprints differ.

    But for the threads: a redraw takes as many as were told.
    """
    names = sorted((set(first) | set(second)) - {THREADS})
    return [
        f"{name}: {first.get(name)} -> {second.get(name)}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _kernels(device: str) -> str:
    import torch

    backends: Any = torch.backends
    if device.startswith("cuda"):
        driver = getattr(torch._C, "_cuda_getDriverVersion")()  # noqa: B009 -- CPU builds lack it
        return (
            f"cuda {torch.version.cuda}, driver {driver}, cublas {_cublas()},"
            f" cudnn {backends.cudnn.version()}, no tf32, sdpa without cudnn"
        )
    onednn = "onednn" if backends.mkldnn.is_available() else "native"
    return f"{torch.backends.cpu.get_cpu_capability()}, {onednn}, sdpa"


def _cublas() -> str:
    """Return the version of cuBLAS: that of its package, or of the CUDA that PyTorch brings."""
    from importlib.metadata import distributions

    for each in distributions():
        if each.metadata["Name"].startswith("nvidia-cublas"):
            return each.version
    return "of PyTorch"


def software() -> dict[str, str]:
    """Return versions of what a run's driver runs on, for the run's row: no names of machines."""
    from importlib.metadata import version

    names = ("ray", "torch", "diffusers", "deltalake", "pyarrow", "numpy")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in names},
    }
