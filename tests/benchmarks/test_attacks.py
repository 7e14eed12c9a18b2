"""Tests of the attacks on a server: the requests, and the figures that are reported."""

import json
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks import tables
from benchmarks.attacks.files import worst_files
from benchmarks.attacks.report import Figures, attacks
from benchmarks.attacks.requests import Served, steadily
from roadwork_serve.atomic_write import write_json
from roadwork_serve.profiles.media_limits import MediaLimits

GOOD = Served([200] * 4, [0.1, 0.2, 0.2, 0.4])
FIGURES = Figures(GOOD, GOOD, GOOD, GOOD, Served([200, 413], [1.0, 2.0]), 8000.0, 9000.0, [422, 422])


def test_all_answered_in_time_passes() -> None:
    assert FIGURES.passed and FIGURES.slower == 1.0


@pytest.mark.parametrize(
    "changed",
    [
        {"alone": Served([200, 503], [0.2, 0.2])},
        {"beside_slow": Served([200, 504], [0.2, 0.2])},
        {"beside_head": Served([200, 0], [0.2, 0.2])},
        {"beside_heavy": Served([200, 200], [0.31, 0.31])},
        {"beside_heavy": Served([503], [0.1])},
        {"head_statuses": [422, 200]},
        {"head_statuses": [422, 504]},
    ],
)
def test_a_photo_unanswered_or_late_or_an_accepted_policy_fails(changed: dict[str, object]) -> None:
    assert not replace(FIGURES, **changed).passed  # type: ignore[arg-type]


def test_refusals_do_not_count_into_the_times() -> None:
    served = Served([200, 503, 200], [1.0, 0.01, 3.0])
    assert (served.answered, served.quantile_s(0.5), served.quantile_s(0.0)) == (2, 3.0, 1.0)


def test_the_figures_are_tabled_beside_those_from_before(tmp_path: Path) -> None:
    assert tables.attacks(tmp_path) == "Nothing has been recorded yet.\n"
    write_json(tmp_path / "attacks.json", {"attacks": [asdict(attack) for attack in attacks(FIGURES)]})
    rows = tables.attacks(tmp_path).splitlines()[2:]
    assert "| eight heavy files in 40 s | photos answered, of 2 per second | 40 of 89 | 4 of 4 |" in rows
    assert any("| not measured | 422, 422 |" in row for row in rows)
    assert len(json.loads((tmp_path / "attacks.json").read_text())["attacks"]) == 3


async def test_photos_are_sent_at_a_rate_in_turns_and_broken_connections_are_counted() -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        if len(seen) == 3:
            raise httpx.ConnectError("gone")
        return httpx.Response(200 if request.content == b"a" else 503)

    async with httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(answer)) as client:
        served = await steadily(client, [b"a", b"b"], 50, 0.2)
    assert len(seen) == 10 and set(seen) == {b"a", b"b"}
    assert sorted(served.statuses) == [0, 200, 200, 200, 200, 503, 503, 503, 503, 503]


@pytest.mark.parametrize("data", worst_files(), ids=["webp", "png", "jpeg", "strip"])
def test_the_heavy_files_are_small_and_of_as_many_pixels_as_the_limits_accept(data: bytes) -> None:
    width, height = Image.open(BytesIO(data)).size
    limits = MediaLimits()
    assert len(data) < 2**20
    assert 0.97 * limits.max_pixels < width * height <= limits.max_pixels
    assert max(width / height, height / width) <= limits.max_aspect
