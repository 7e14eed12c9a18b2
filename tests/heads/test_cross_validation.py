from dataclasses import asdict, replace

import numpy as np
import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.metrics import Confusion
from roadwork_serve.heads.cross_validation import cross_validate, fold_metrics, head_count
from roadwork_serve.heads.fit import HeadTraining, fit_head
from tests.heads.feature_sets import clouds

QUICK = HeadTraining(hidden=16, epochs=12, patience=4, batch=128, lr=0.03)


def test_every_item_is_predicted_by_heads_of_other_groups() -> None:
    features = clouds()
    done: list[None] = []
    report = cross_validate(features, QUICK, 2, on_done=lambda: done.append(None))
    assert len(done) == head_count(2) == 8
    assert (report.n, report.groups, len(report.curves)) == (240, 40, 2)
    assert report.head.pooled.accuracy > 0.88
    assert report.bundled is None
    again = cross_validate(features, QUICK, 2)
    assert asdict(again.calibrated) == asdict(report.calibrated)


def test_features_of_the_group_alone_do_not_help() -> None:
    """Labels are random per group and features encode the group: a head that had seen the group would be right."""
    features = clouds(groups=60, each=4, width=60, apart=0.0)
    site = np.repeat(np.arange(60), 4)
    x = np.zeros((240, 60), np.float32)
    x[np.arange(240), site] = 5.0
    labels = np.random.default_rng(3).integers(0, 2, 60)[site].astype(np.float32)
    report = cross_validate(replace(features, x=x, target=labels, metadata=()), QUICK, 2)
    assert report.head.pooled.accuracy < 0.65


def test_the_bundled_head_is_reported_for_comparison() -> None:
    features = clouds()
    bundled = fit_head(clouds(seed=5), QUICK).head
    report = cross_validate(features, QUICK, 2, bundled)
    assert report.bundled is not None
    assert report.bundled.pooled.accuracy > 0.88


def test_hard_negatives_are_reported_separately() -> None:
    features = clouds(groups=2, each=2)
    metadata = tuple(replace(each, hard_negative=not each.label) for each in features.metadata)
    metrics = fold_metrics(replace(features, metadata=metadata), np.array([2.0, -2.0, 2.0, -2.0]))
    assert (metrics.hard_negatives, metrics.hard_negative_false_positives) == (2, ("item-0",))
    assert metrics.other == Confusion(tp=1, fp=0, fn=1, tn=0)
    assert metrics.by_group == {"site-0": Confusion(0, 1, 0, 1), "site-1": Confusion(1, 0, 1, 0)}
    assert metrics.by_source == {"clouds": Confusion(1, 1, 1, 1)}
    assert metrics.misclassified == {"item-0": 0.881, "item-3": 0.119}


def test_too_few_groups_are_rejected() -> None:
    with pytest.raises(ConfigError, match="groups"):
        cross_validate(clouds(groups=4), QUICK, 5)
