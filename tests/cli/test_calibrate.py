"""`roadwork calibrate`, `tune` and `compare`, from files of rows and from a journal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from roadwork_serve.calibration.thresholds import holdout_mask
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cli.calibrate import calibrate
from roadwork_serve.cli.compare import compare
from roadwork_serve.cli.tune import tune
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, write_rows
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY
from tests.journal.made import audit, entry, report

app = typer.Typer()
for command in (calibrate, tune, compare):
    app.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with rows.jsonl of 1,200 photos and clips, base.yaml, and calibrated.yaml made from both."""
    path = tmp_path_factory.mktemp("tuning")
    write_rows(path / "rows.jsonl", synthetic_rows(1200, seed=3))
    (path / "base.yaml").write_text(yaml.safe_dump(POLICY.to_mapping()))
    done = run(
        "calibrate", "--policy", path / "base.yaml", "--rows", path / "rows.jsonl", "--out", path / "calibrated.yaml",
        "--report-folder", path / "calibration", "--version", "calm-1",
    )  # fmt: skip
    (path / "output").write_text(f"{done.exit_code}\n{done.output}")
    return path


def load(path: Path) -> Policy:
    return Policy.parse(yaml.safe_load(path.read_text()))


def test_calibrate_writes_a_policy_and_its_quality(folder: Path) -> None:
    output, policy = (folder / "output").read_text(), load(folder / "calibrated.yaml")
    assert output.startswith("0\n") and "photos, out of fold: log loss" in output
    assert policy.version == "calm-1" and policy.certificate is None
    stage1 = policy.photo[0].calibration
    assert abs(stage1.update(0.0, 8.0)) < 7  # it overstates its case
    figures = json.loads((folder / "calibration" / "calibration.json").read_text())
    whole = figures["quality"]["photo cascade"]
    assert whole["after"]["log_loss"] < whole["before"]["log_loss"]
    assert {"photo cascade", "photo vlm"} <= set(figures["quality"])
    assert (folder / "calibration" / "reliability.png").stat().st_size > 10_000


def test_calibration_never_uses_the_rows_of_the_bound_test(folder: Path) -> None:
    rows = synthetic_rows(1200, seed=3)
    kept = [row for row, held_out in zip(rows, holdout_mask(rows, 0.6), strict=True) if not held_out]
    figures = json.loads((folder / "calibration" / "calibration.json").read_text())
    done = run("tune", "--policy", folder / "calibrated.yaml", "--rows", folder / "rows.jsonl", "--out",
               folder / "loose.yaml", "--risk-limit", 0.05, "--report-folder", folder / "loose")  # fmt: skip
    assert done.exit_code == 0, done.output
    certificate = load(folder / "loose.yaml").certificate
    assert certificate is not None
    assert figures["fitted_to"] == len(kept)
    assert sum(bound.n for bound in certificate.bounds) <= len(rows) - len(kept)


def test_tune_writes_a_certificate_a_figure_and_the_trade_offs(folder: Path) -> None:
    out, report_folder = folder / "tuned.yaml", folder / "tuning"
    done = run("tune", "--policy", folder / "calibrated.yaml", "--rows", folder / "rows.jsonl", "--out", out,
               "--risk-limit", 0.05, "--confidence", 0.9, "--report-folder", report_folder)  # fmt: skip
    assert done.exit_code == 0, done.output
    policy = load(out)
    assert policy.certificate is not None and policy.certificate.risk_limit == 0.05
    assert policy.photo[0].high < 1 and "no more than 5.00% of traffic" in out.read_text()
    assert "x less than with all stages" in done.output and "cost of other bounds" in done.output
    figures = json.loads((report_folder / "tuning.json").read_text())
    assert {case["risk_limit"] for case in figures["trade_offs"]} == {0.005, 0.01, 0.02, 0.05}
    names = {place["name"] for place in figures["points"]["photo"]}
    assert names == {"all stages", "today", "tuned", "stage 1 alone", "vlm on all"}
    assert (report_folder / "pareto.png").stat().st_size > 10_000


def test_without_a_proven_bound_nothing_is_written(folder: Path) -> None:
    out = folder / "strict.yaml"
    done = run("tune", "--policy", folder / "calibrated.yaml", "--rows", folder / "rows.jsonl", "--out", out,
               "--risk-limit", 0.0005)  # fmt: skip
    assert done.exit_code == 1 and not out.exists()
    assert "no bound was proven for photos" in done.output and "Nothing is written." in done.output


def test_a_missed_cost_limit_is_reported(folder: Path) -> None:
    common = ("tune", "--policy", folder / "calibrated.yaml", "--rows", folder / "rows.jsonl", "--risk-limit", 0.05)
    (folder / "costs.yaml").write_text("{backbone: 1, signs: 2, vlm: 10, reasoner: 50, video: 100}")
    dear = run(*common, "--out", folder / "a.yaml", "--costs", folder / "costs.yaml", "--max-cost", 1.001)
    fine = run(*common, "--out", folder / "b.yaml", "--costs", folder / "costs.yaml", "--max-cost", 101)
    assert dear.exit_code == 1 and "more than the limit of 1.001" in dear.output
    assert fine.exit_code == 0, fine.output


def test_latency_cannot_be_the_cost_without_measurements(folder: Path) -> None:
    common = ("tune", "--policy", folder / "base.yaml", "--rows", folder / "rows.jsonl", "--out", folder / "c.yaml")
    untimed = run(*common, "--latency")
    assert isinstance(untimed.exception, ConfigError) and "carry no times" in str(untimed.exception)
    assert run(*common, "--latency", "--flops").exit_code == 2


def test_compare_prints_the_decision_and_the_reason(folder: Path) -> None:
    write_rows(folder / "fresh.jsonl", fresh := synthetic_rows(1500, seed=8))
    open_ended = tuple(step.with_band(0.0, 1.0) for step in POLICY.photo[:-1])
    never = POLICY.named("never").with_steps("photo", (*open_ended, POLICY.photo[-1]))
    (folder / "never.yaml").write_text(yaml.safe_dump(never.to_mapping()))
    promoted = run("compare", folder / "never.yaml", folder / "base.yaml", "--rows", folder / "fresh.jsonl", "--report",
                   folder / "compared.json", "--margin", 0.05)  # fmt: skip
    kept = run("compare", folder / "base.yaml", folder / "never.yaml", "--rows", folder / "fresh.jsonl")
    assert promoted.exit_code == 0, promoted.output
    assert "promote: photos: accuracy" in promoted.output and "cheaper" in promoted.output
    assert kept.exit_code == 1 and "keep: " in kept.output
    figures = json.loads((folder / "compared.json").read_text())
    assert figures["verdict"] == "promote"
    assert [each["media"] for each in figures["comparisons"]] == ["photo"]  # of clips nothing has changed
    assert figures["comparisons"][0]["champion"]["n"] == sum(row.metadata.kind == "photo" for row in fresh)


def test_heads_are_compared_on_rows_of_their_own(folder: Path) -> None:
    rows = synthetic_rows(800, seed=9)
    write_rows(folder / "old.jsonl", [_wild(row) for row in rows])
    write_rows(folder / "new.jsonl", rows)
    done = run("compare", folder / "base.yaml", folder / "base.yaml", "--rows", folder / "old.jsonl",
               "--challenger-rows", folder / "new.jsonl", "--margin", 0.2)  # fmt: skip
    assert "that only one got right, McNemar" in done.output
    assert done.exit_code == 0, done.output


def _wild(row: EvaluationRow) -> EvaluationRow:
    """Return the row with an undecided stage 1."""
    records = tuple(replace(record, logit=0.0) if record.stage == "backbone" else record for record in row.records)
    return replace(row, records=records)


def audited(path: Path, count: int) -> str:
    """Return the URL of a journal with entries of two arms, all audited and labelled by people."""
    url = f"sqlite:///{path}"
    records, marks = [], []
    for at in range(count):
        label, arm = at % 2 == 0, "a" if at % 4 < 2 else "b"
        wrong = arm == "a" and at % 3 == 0
        p, good = (0.97 if label != wrong else 0.03), (0.98 if label else 0.02)
        fields = {"stages": (report("backbone", p, posterior=p),), "arm": arm}
        records.append(entry(f"e{at}", p, created_at_s=1000.0 + at, audit_rate=0.5, verdict=fields))
        beside = (report("signs", None), report("vlm", good), report("reasoner", good))
        records.append(audit(f"e{at}", *beside))
        marks.append((f"e{at}", Annotation("roadwork" if label else "none", "ann", 2000.0)))
    store = Store.open(url)
    store.commit(records)
    store.annotate(marks)
    store.close()
    return url


def test_a_journal_is_a_source_of_rows_and_of_arms(folder: Path) -> None:
    url = audited(folder / "journal.db", 300)
    done = run("calibrate", "--policy", folder / "base.yaml", "--journal", url, "--holdout", 0, "--out",
               folder / "journal.yaml")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "300 photos, out of fold" in done.output
    better = run("compare", "a", "b", "--journal", url, "--arms")
    worse = run("compare", "b", "a", "--journal", url, "--arms")
    assert better.exit_code == 0 and "unpaired, Fisher" in better.output and "promote: " in better.output
    assert worse.exit_code == 1 and "keep: " in worse.output


@pytest.mark.parametrize("source", [(), ("--rows", "x.jsonl", "--journal", "sqlite:///y.db")])
def test_rows_come_from_one_source(folder: Path, source: tuple[str, ...]) -> None:
    done = run("tune", "--policy", folder / "base.yaml", "--out", folder / "d.yaml", *source)
    assert isinstance(done.exception, ConfigError) and "one of --rows FILE and --journal" in str(done.exception)


def test_an_empty_journal_is_an_error_that_explains_how_to_fill_it(folder: Path) -> None:
    done = run("tune", "--policy", folder / "base.yaml", "--out", folder / "e.yaml", "--journal",
               f"sqlite:///{folder / 'empty.db'}")  # fmt: skip
    assert isinstance(done.exception, ConfigError) and "audit: {share: 0.05}" in str(done.exception)


def test_too_few_rows_to_calibrate_on_are_rejected(folder: Path) -> None:
    write_rows(folder / "few.jsonl", synthetic_rows(10))
    done = run(
        "calibrate", "--policy", folder / "base.yaml", "--rows", folder / "few.jsonl", "--out", folder / "f.yaml"
    )
    assert isinstance(done.exception, ConfigError) and "too few to fit anything to" in str(done.exception)
