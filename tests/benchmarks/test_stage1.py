"""The benchmark of stage 1 times both graphs with every size of batch."""

import pytest

from benchmarks.stage1 import BATCHES, DTYPES, measure
from roadwork_serve.engines.cpu_features import has_int8_dot_products


@pytest.mark.skipif(not has_int8_dot_products(), reason="without 8-bit dot products (VNNI) it is not run")
def test_each_graph_is_timed_with_each_size() -> None:
    rows = measure(repeats=2)
    assert [(row.dtype, row.batch) for row in rows] == [(dtype, batch) for dtype in DTYPES for batch in BATCHES]
    assert all(row.ms > 0 for row in rows)
