"""What a person is told where Ray ends what works for them."""

import pytest
import ray

from factory.errors import ClusterError
from factory.sample.session import ray_session

KILLED = (
    "Caught unexpected exception: 3 worker(s) were killed due to the node running low on memory."
    " Memory on the node (IP: 10.0.0.1, ID: f1) was 22.76GB used / 23.54GB limit (0.967061)\nOOM"
)


def test_memory_that_ran_out_is_one_line_whatever_library_tells_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with (
        pytest.raises(ClusterError, match=r"22\.76GB of 23\.54GB in use.*it goes on"),
        ray_session(),
    ):
        raise RuntimeError(KILLED)
    with pytest.raises(RuntimeError, match="other"), ray_session():
        raise RuntimeError("other")
