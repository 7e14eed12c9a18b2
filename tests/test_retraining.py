"""A retraining cycle on a synthetic journal, whose right labels are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.calibration.comparison import PromotionCriteria
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.cascade.step import Step
from roadwork_serve.engines.features import Head
from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.fit import HeadTraining
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.retraining import RetrainingSettings, retrain
from tests.journal.made import entry, report

COLD = Policy(
    version="cold",
    photo=(Step(stage="backbone", exit=(0.0, 1.0)), Step(stage="vlm", exit=(0.5, 0.5))),
    clip=(Step(stage="backbone", exit=(0.0, 1.0)), Step(stage="video", exit=(0.5, 0.5))),
)
SETTINGS = RetrainingSettings(
    risk_limit=0.03,
    confidence=0.9,
    criteria=PromotionCriteria(max_accuracy_loss=0.06),
    head=HeadTraining(hidden=16, epochs=40, patience=5),
)


def traffic(n: int, seed: int = 0, learnable: bool = True) -> list[JournalRow]:
    """Return entries: stage 1 abstains, the VLM is right on nine in ten; if `learnable`, features reveal the label."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=16)
    cases: list[JournalRow] = []
    for at in range(n):
        truth = bool(rng.random() < 0.5)
        sign = 1 if truth else -1
        x = rng.normal(size=16) + (1.2 * sign * direction if learnable else 0)
        vlm = sigmoid(float(rng.normal(2.5 * sign, 1.8)))
        drawn = rng.random() < 0.7
        reports = [report("backbone", None), report("vlm", vlm, posterior=vlm)]
        made = entry(
            f"{seed}-{at}",
            vlm,
            verdict={"stages": reports},
            audit_rate=0.7 if drawn else None,
            features=x[None].astype(np.float16),
        )
        mark = Annotation("roadwork" if truth else "none", "ann", 1.0) if drawn else None
        cases.append(JournalRow(made, () if drawn else None, annotation=mark))
    return cases


def test_retraining_gives_a_better_head_and_a_certified_policy(tmp_path: Path) -> None:
    done = retrain(traffic(1200), COLD, tmp_path / "one", "round-1", SETTINGS)
    assert done.promoted, done.reason
    assert done.policy.certificate is not None
    assert done.trained_on + done.tested_on <= 1200
    (photos,) = done.tuning.parts
    assert photos.exits[0] > 0.5 and photos.cost < photos.full_cost / 1.5
    assert Head.load(tmp_path / "one/head").settings.width == 16
    written = load_policy(tmp_path / "one/policy.yaml")
    assert written == done.policy
    assert written.photo[0].head == str(tmp_path / "one/head")
    assert "cheaper" in done.reason


def test_late_stages_are_calibrated_on_all_audits_for_any_active_exits(tmp_path: Path) -> None:
    early = Step(stage="backbone", exit=(0.4, 0.6))
    eager = COLD.named("eager")
    for kind in ("photo", "clip"):
        eager = eager.with_steps(kind, (early, *COLD.steps(kind)[1:]))
    cold, other = (retrain(traffic(600), by, tmp_path / by.version, "new", SETTINGS).policy for by in (COLD, eager))
    assert cold.photo[1].calibration == other.photo[1].calibration
    assert cold.photo[0].low == other.photo[0].low > 0
    assert (other.clip[0].low, other.clip[0].high) == (0.4, 0.6), "of clips there are no rows"


def test_unlearnable_data_is_not_promoted(tmp_path: Path) -> None:
    done = retrain(traffic(900, seed=1, learnable=False), COLD, tmp_path / "one", "round-1", SETTINGS)
    (photos,) = done.tuning.parts
    assert not done.promoted or photos.exits[0] < 0.1


def test_too_little_data_for_a_bound_reports_the_missing_rows(tmp_path: Path) -> None:
    done = retrain(traffic(150), COLD, tmp_path / "one", "round-1", replace(SETTINGS, risk_limit=0.005))
    assert not done.promoted
    assert "more rows of photos are needed" in done.reason
    assert done.policy.certificate is None


def test_training_calibration_and_test_rows_are_disjoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roadwork_serve import retraining

    seen: dict[str, set[str]] = {}
    really_train, really_calibrate, really_tune = retraining.train_head, retraining.calibrate, retraining.tune

    def train(features, *rest, **more):  # type: ignore[no-untyped-def]
        seen["head"] = set(features.name)
        return really_train(features, *rest, **more)

    def calibrate(rows, *rest):  # type: ignore[no-untyped-def]
        seen["calibrate"] = {row.metadata.name for row in rows}
        return really_calibrate(rows, *rest)

    def tune(rows, base, settings):  # type: ignore[no-untyped-def]
        seen["test"] = {row.metadata.name for row in rows} - settings.calibration_rows
        return really_tune(rows, base, settings)

    for name, spy in (("train_head", train), ("calibrate", calibrate), ("tune", tune)):
        monkeypatch.setattr(retraining, name, spy)
    cases = [
        replace(case, prediction=replace(case.prediction, key=f"trip {at // 3}"))
        for at, case in enumerate(traffic(600))
    ]
    retrain(cases, COLD, tmp_path / "one", "round-1", SETTINGS)
    trips = {case.prediction.id: case.prediction.key for case in cases}
    groups = {part: {trips[name] for name in names} for part, names in seen.items()}
    assert all(groups.values())
    assert not groups["head"] & (groups["calibrate"] | groups["test"])
    assert not groups["calibrate"] & groups["test"]


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already exists"):
        retrain([], COLD, tmp_path, "round-1", SETTINGS)
