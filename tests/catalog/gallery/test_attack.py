"""Under attack from many sides, somebody looks at a page: it is whole each time, and facts hold.

How long it took, tests/bench/bench_hostile.py prints.
"""

import pytest

from tests.bench.bench_gallery import fill
from tests.bench.bench_hostile import attack


@pytest.mark.slow
def test_hostile_requests_take_no_page_from_others_and_no_memory_without_bounds(tmp_path):
    fill(tmp_path / "catalog", 600, 32)
    seen = attack(tmp_path / "catalog", 120, rest_seconds=0.2)
    assert sum(seen.answers.values()) == 120
    assert seen.answers["half"] == 30
    assert seen.answers[400] > 20  # versions that there are not
    assert len(seen.pages) > 3
    assert seen.peak_bytes < 3 << 30  # the server, and two SQL processes of 2 GiB at most
