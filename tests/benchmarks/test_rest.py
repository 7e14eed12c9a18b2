"""The arithmetic of the benchmark of a server at rest."""

import os
import time

from benchmarks.rest import by_name, core_ms


def test_processes_of_a_name_are_added_and_those_that_came_or_went_left_out() -> None:
    before = {1: ("raylet", 1000.0), 2: ("Ingress", 50.0), 3: ("Ingress", 0.0), 4: ("gone", 7.0)}
    after = {1: ("raylet", 1200.0), 2: ("Ingress", 80.0), 3: ("Ingress", 10.0), 5: ("new", 900.0)}
    assert dict(by_name(before, after, 10.0)) == {"raylet": 20.0, "Ingress": 4.0}


def test_processor_time_of_this_session_is_read() -> None:
    leader = os.getsid(0)
    until_ms = core_ms(leader)[os.getpid()][1] + 100
    give_up_at = time.monotonic() + 20
    while core_ms(leader)[os.getpid()][1] < until_ms:
        assert time.monotonic() < give_up_at
