"""Fuzzing for a given time: hypothesis makes the inputs, seed after seed."""

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
EXAMPLES = 200


def fuzz(target: Callable[[Any], None], inputs: st.SearchStrategy[Any]) -> int:
    """Call `target` with inputs for `SECONDS`; return with how many. What fails is shrunk."""
    count, end, number = 0, time.monotonic() + SECONDS, 0
    while time.monotonic() < end:

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def once(value: Any) -> None:
            nonlocal count
            count += 1
            target(value)

        once()
        number += 1
    return count


def mutated(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    """Originals with bytes flipped, cut out, doubled, or replaced by numbers that overflow."""
    edits = st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "double", "number", "end"]),
            st.floats(0, 1),
            st.integers(1, 64),
            st.sampled_from(
                [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x80"]
            ),
        ),
        max_size=8,
    )
    return st.builds(_edited, st.sampled_from(originals), edits)


def _edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, where, length, number in edits:
        at = int(where * len(data))
        head, part, tail = data[:at], data[at : at + length], data[at + length :]
        data = {
            "flip": head + bytes(byte ^ length for byte in part) + tail,
            "cut": head + tail,
            "double": head + part + part + tail,
            "number": head + number + data[at + len(number) :],
            "end": head or data,
        }[kind]
    return data
