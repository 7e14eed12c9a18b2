"""Potholes, and a stage of another package, through the server, its journal, its previews and the rows of tuning."""

from io import BytesIO

import httpx
from PIL import Image

from benchmarks.server import Server
from roadwork_serve.calibration.journal_rows import journal_row
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.client import Client
from roadwork_serve.journal.export import export_row
from roadwork_serve.journal.store import Store
from tests.clients.conftest import POLICY
from tests.e2e.conftest import eventually


def picture(grey: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (320, 240), (grey,) * 3).save(file, "JPEG")
    return file.getvalue()


def test_a_server_with_another_task_and_a_stage_of_another_package(server: Server) -> None:
    token = (server.folder / "state/admin-token").read_text()
    with Client(server.url, token) as client:
        info = client.info()
        assert (info.task.positive, info.task.negative) == ("pothole", "none")
        assert "darkness" in [stage.stage for stage in info.stages]
        dark, bright = (client.classify(picture(grey)) for grey in (5, 250))
        assert [(each.label, each.positive, each.exit.stage) for each in (dark, bright)] == [
            ("pothole", True, "darkness"), ("none", False, "darkness")
        ]  # fmt: skip
        ids = {dark.answer_id, bright.answer_id}
        eventually(lambda: ids <= {entry.id for entry in client.journal().entries}, 30, "both are in the journal")
        for each, label in ((dark, "pothole"), (bright, "pothole")):
            assert client.label(each.answer_id, label).human_label == label
        refused = httpx.put(
            f"{server.url}/v1/journal/{dark.answer_id}/label", json={"label": "roadwork"}, headers={"X-API-Key": token}
        )
        assert refused.status_code == 400 and "'pothole', 'none' or 'unclear'" in refused.json()["detail"]
        preview = client.preview_policy(POLICY | {"version": "dark-2"})
        assert preview.labeled >= 2 and "darkness" in [each.stage for each in preview.exits]
        assert "darkness" in [stage.stage for stage in client.stats().replicas[0].stages]
    page = httpx.get(f"{server.url}/console/task.js")
    assert page.status_code == 200 and "info.task" in page.text

    rows = {row.prediction.id: row for row in Store.open(server.journal).find()}
    assert [rows[each.answer_id].human_positive for each in (dark, bright)] == [True, True]
    assert [export_row(rows[each.answer_id])["p_darkness"] > 0.5 for each in (dark, bright)] == [True, False]
    learned = [journal_row(rows[each.answer_id], Policy.parse(POLICY)) for each in (dark, bright)]
    assert [(row.predicted_label, row.metadata.label, row.exit_stage) for row in learned] == [
        (True, True, "darkness"), (False, True, "darkness")
    ]  # fmt: skip
