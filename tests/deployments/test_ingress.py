"""The ingress over fake handles: readiness, admission, deadlines, policies and imports."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from PIL import Image
from ray.exceptions import RayTaskError

from deployments import load_progress
from deployments.ingress import Ingress
from roadwork_serve.api.policy_store import parse_rollout
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.errors import (
    BadRequest,
    BrokenMedia,
    ConfigError,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    PolicyRefused,
    RoadworkError,
    StageFailed,
)
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import JournalLoad, PolicyChange
from tests.deployments.fakes import FakeHandle, until

PROFILE = load_profile("mini", {"ingress": {"max_ongoing_requests": 2}})


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(out, "JPEG")
    return out.getvalue()


PHOTO = jpeg()


def policy(version: str, **fields: object) -> dict[str, object]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": version, "photo": steps, "clip": steps, **fields}


@pytest.fixture
async def handles() -> dict[str, FakeHandle]:
    return {stage: FakeHandle() for stage in PROFILE.stages}


@pytest.fixture
async def ingress(handles: dict[str, FakeHandle]) -> AsyncIterator[Ingress]:
    ingress = Ingress(PROFILE, handles)  # type: ignore[arg-type]
    yield ingress
    await ingress.aclose()


async def test_without_a_journal_too_it_creates_private_files(ingress: Ingress) -> None:
    assert os.umask(0o077) == 0o077


async def test_readiness_shows_how_far_loading_is(handles: dict[str, FakeHandle], monkeypatch: pytest.MonkeyPatch):
    published: dict[bytes, bytes] = {}
    monkeypatch.setattr(load_progress, "_internal_kv_initialized", lambda: True)
    monkeypatch.setattr(load_progress, "_internal_kv_put", lambda key, value, **_: published.update({key: value}))
    monkeypatch.setattr(load_progress, "_internal_kv_get", lambda key, **_: published.get(key))
    monkeypatch.setattr(load_progress, "_internal_kv_del", lambda key, **_: published.pop(key, None))
    handles["vlm"].hangs = True
    load_progress.report_progress("FastVLM", "downloading, 3.1 of 9.9 GiB")
    ingress = Ingress(PROFILE, handles)  # type: ignore[arg-type]
    await until(lambda: sum(stage.up for stage in ingress.status.info().stages) == 4)
    with pytest.raises(NotReady, match=r"still loading: vlm \(downloading, 3\.1 of 9\.9 GiB\)$"):
        ingress.status.readiness()
    load_progress.report_progress("FastVLM", "")
    assert published == {}
    handles["vlm"].let_go()
    await ingress.aclose()


async def test_readiness_says_why_a_stage_is_not_required(handles: dict[str, FakeHandle]):
    handles["vlm"].hangs = True
    optional = load_profile("mini", {"stages": {"vlm": {"required": False, "note": "it is gated"}}})
    ingress = Ingress(optional, handles)  # type: ignore[arg-type]
    await until(lambda: sum(stage.up for stage in ingress.status.info().stages) == 4)
    ingress.status.warmed = True
    assert ingress.status.readiness().notes == {"vlm": "it is gated"}
    handles["vlm"].let_go()
    await ingress.aclose()


async def put(ingress: Ingress, rollout: object, author: str) -> PolicyChange:
    return await ingress.policy_admin.put_policy(parse_rollout(rollout), author)


async def ready(ingress: Ingress) -> None:
    async with asyncio.timeout(5):
        await ingress._warming


async def test_nothing_is_accepted_before_every_stage_has_warmed_up(handles: dict[str, FakeHandle]):
    handles["vlm"].hangs = True
    ingress = Ingress(PROFILE, handles)  # type: ignore[arg-type]
    await until(lambda: sum(stage.up for stage in ingress.status.info().stages) == 4)
    for attempt in (ingress.status.readiness, ingress.admission().__enter__):
        with pytest.raises(NotReady, match="still loading: vlm"):
            attempt()
    with pytest.raises(NotReady):
        await ingress.classify(PHOTO)
    handles["vlm"].let_go()
    await ready(ingress)
    assert ingress.status.readiness().down == []
    await ingress.aclose()


async def test_a_stage_that_fails_later_leaves_the_server_ready(ingress: Ingress, handles: dict[str, FakeHandle]):
    await ready(ingress)
    ingress._clients["vlm"]._mark_down(ConnectionError("gone"))
    assert ingress.status.readiness().down == ["vlm"]
    assert (await ingress.classify(PHOTO)).exit.stage == "backbone"


async def test_a_journal_that_cannot_be_written_is_reported_and_leaves_the_server_ready(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
):
    await ready(ingress)
    assert ingress.status.readiness().journal_error is None
    full = JournalLoad(
        up=False, error="ENOSPC No space left on device: /data", error_code="ENOSPC", pending=7, pending_bytes=70,
        committed=0, dropped=2, without_media=0,
    )  # fmt: skip
    monkeypatch.setattr(ingress.status, "_journal", lambda: full)
    assert ingress.status.readiness().journal_error == "ENOSPC No space left on device: /data"
    gauges: dict[str, float] = {}
    for name in ("_journal_up", "_journal_disk_full", "_dropped"):
        monkeypatch.setattr(
            getattr(ingress._metrics, name), "set", lambda value, name=name: gauges.update({name: value})
        )
    ingress._metrics.report_load(ingress.load())
    assert gauges == {"_journal_up": 0, "_journal_disk_full": 1, "_dropped": 2}


async def test_with_every_stage_down_it_is_not_ready(ingress: Ingress):
    await ready(ingress)
    for client in ingress._clients.values():
        client._mark_down(ConnectionError("gone"))
    with pytest.raises(NotReady, match="no stage answers"):
        ingress.status.readiness()


async def test_a_handle_returns_verdicts_and_errors(ingress: Ingress):
    await ready(ingress)
    verdict = await ingress.classify(PHOTO, deadline_ms=5000, request_id="mine")
    assert (verdict.request_id, verdict.label, verdict.profile) == ("mine", "roadwork", "mini")
    assert len((await ingress.classify(PHOTO)).request_id) == 32
    with pytest.raises(BrokenMedia):
        await ingress.classify(b"")
    for nonsense in (0, -1, 600_001):
        with pytest.raises(BadRequest):
            await ingress.classify(PHOTO, nonsense)


async def test_a_deadline_that_passes_before_decoding_is_an_error(ingress: Ingress):
    await ready(ingress)
    with pytest.raises(DeadlineExceeded, match="had passed"):
        await ingress.classify_media(PHOTO, 0.0, "late", RequestContext())


async def test_too_many_requests_are_rejected_and_permits_released(ingress: Ingress):
    await ready(ingress)
    with ingress.admission(), ingress.admission():
        assert ingress.status.info().in_flight == 2
        with pytest.raises(Overloaded, match="2 requests"):
            await ingress.classify(PHOTO)
    assert (await ingress.classify(PHOTO)).label == "roadwork"


async def test_too_many_bytes_are_rejected_and_released(ingress: Ingress):
    await ready(ingress)
    most = ingress.profile.ingress.max_in_flight_bytes
    with ingress.receiving() as place:
        place.reserve_bytes(most)
        with pytest.raises(Overloaded, match="hold 536,870,912 of 536,870,912 bytes"):
            await ingress.classify(PHOTO)
        with pytest.raises(Overloaded):
            place.reserve_bytes(1)
    assert (await ingress.classify(PHOTO)).label == "roadwork"
    assert ingress._admission.reserved_bytes == 0


async def test_an_invalid_policy_does_not_stop_a_running_server(ingress: Ingress):
    await ready(ingress)
    await ingress.classify(PHOTO)
    await ingress.reconfigure({"policy": "no-such"})
    assert "no-such" in (ingress.status.info().policy_error or "")


async def test_a_policy_is_replaced_by_mapping_name_or_path(ingress: Ingress, tmp_path):
    await ready(ingress)
    await ingress.reconfigure({"policy": policy("a", prior=0.2)})
    assert (await ingress.classify(PHOTO)).policy_version == "a"
    path = tmp_path / "own.yaml"
    path.write_text(
        "version: b\nphoto: [{stage: backbone, exit: [0.1, 0.9]}]\nclip: [{stage: video, exit: [0.5, 0.5]}]"
    )
    await ingress.reconfigure({"policy": str(path)})
    assert ingress.status.info().policy.version == "b"
    await ingress.reconfigure({"policy": "mini"})
    assert ingress.status.info().policy.version.startswith("mini")


BAD = [{"policy": {"version": "c"}}, {"policy": "no-such"}, {"policies": "mini"}, {"policy": 3}]


@pytest.mark.parametrize("config", BAD)
async def test_an_invalid_policy_leaves_the_old_one_active_and_is_reported(ingress: Ingress, config: dict):
    await ingress.reconfigure({"policy": policy("a")})
    await ingress.reconfigure(config)
    info = ingress.status.info()
    assert info.policy.version == "a"
    assert info.policy_error
    await ingress.reconfigure({"policy": policy("b")})
    assert ingress.status.info().policy_error is None


@pytest.mark.parametrize("config", BAD)
async def test_a_server_does_not_start_with_an_invalid_policy(ingress: Ingress, config: dict):
    with pytest.raises(ConfigError):
        await ingress.reconfigure(config)


async def test_a_failed_startup_fails_the_health_check(handles: dict[str, FakeHandle]):
    ingress = Ingress(PROFILE, handles)  # type: ignore[arg-type]

    async def fails() -> None:
        raise RoadworkError("the process that reads media does not start")

    ingress._decoder.ready = fails  # type: ignore[method-assign]
    await asyncio.wait([ingress._warming])
    with pytest.raises(RoadworkError, match="does not start"):
        await ingress.check_health()
    await ingress.aclose()


async def test_shadow_verdicts_are_logged_with_the_active_verdict(ingress: Ingress, caplog: pytest.LogCaptureFixture):
    await ready(ingress)
    trial = policy("trial", prior=0.001)
    await put(ingress, {"policy": policy("main"), "shadow": {"policy": trial, "share": 1.0}}, "ann")
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork.shadows"):
        verdict = await ingress.classify(PHOTO, request_id="mine")
        await until(lambda: any(record.name.endswith("shadows") for record in caplog.records))
    assert verdict.shadow == "trial"
    (line,) = (json.loads(record.message) for record in caplog.records if record.name.endswith("shadows"))
    assert (line["request_id"], line["active"]["label"], line["shadow"]["label"]) == ("mine", "roadwork", "none")
    (load,) = (await ingress.status.stats()).replicas
    assert load.shadow and (load.shadow.compared, load.shadow.agreed) == (1, 0)


async def test_the_head_of_a_policy_is_validated_before_activation(ingress: Ingress, handles: dict[str, FakeHandle]):
    await ready(ingress)
    headed = policy("headed", photo=[{"stage": "backbone", "exit": [0.1, 0.9], "head": "heads/2"}])
    failed = RayTaskError("predict", "", StageFailed("The head in heads/2 cannot be read"))
    handles["backbone"].error = failed
    with pytest.raises(PolicyRefused, match=r"the head heads/2 cannot be used: .*cannot be read"):
        await put(ingress, headed, "ann")
    assert ingress.status.info().policy.version != "headed"
    handles["backbone"].error = None
    await until(lambda: ingress.status.info().stages[0].up)
    assert (await put(ingress, headed, "ann")).version == "headed"
    assert handles["backbone"].seen[-1][0].head == "heads/2"
    assert (await ingress.classify(PHOTO)).stages[0].head == "heads/2"


@pytest.mark.parametrize(
    "wrong", [{"request_id": "a\0b"}, {"request_id": "x" * 129}, {"key": "\ud800"}, {"key": "x" * 257}]
)
async def test_a_callers_request_id_and_key_must_be_printable_text(ingress: Ingress, wrong: dict[str, str]):
    await ready(ingress)
    with pytest.raises(BadRequest, match="is not a printable text of at most"):
        await ingress.classify(PHOTO, **wrong)


async def test_audits_are_reported_with_the_load(ingress: Ingress):
    await ready(ingress)
    await put(ingress, {"policy": policy("main"), "audit": {"share": 1.0}}, "ann")
    verdict = await ingress.classify(PHOTO)
    assert verdict.audit_rate == 1.0 and verdict.answer_id
    await until(lambda: ingress.load().audit.completed == 1)  # type: ignore[union-attr]
    assert ingress.load().journal is None


async def test_info_describes_the_server(ingress: Ingress):
    await ready(ingress)
    info = ingress.status.info()
    assert [stage.stage for stage in info.stages] == list(PROFILE.stages)
    assert all(stage.up for stage in info.stages)
    assert info.limits.max_bytes == PROFILE.media.max_bytes
    assert info.version


def test_the_application_imports_nothing_heavy():
    heavy = ("torch", "transformers", "onnxruntime", "rapidocr", "vllm", "alembic")
    code = f"import sys, deployments.app; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
