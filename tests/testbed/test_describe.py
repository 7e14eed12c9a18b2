from dataclasses import replace

import numpy as np

from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis.describe import KINDS, clip_reasoning, coverage, presence, scene_reasoning
from roadwork_serve.testbed.scene_dataset import has_readable_text
from roadwork_serve.testbed.scenes.truth import Thing, Truth

CONE, WORKER = KINDS.index("cone"), KINDS.index("worker")


def truth(*things: Thing, needs: str = "backbone") -> Truth:
    return Truth(1, "photo", True, needs, "working", things, ())  # type: ignore[arg-type]


def test_a_cell_contains_objects_that_fill_it_or_lie_inside_it() -> None:
    large = Thing("worker", (0.5, 0.5, 1.0, 1.0))
    tiny = Thing("cone", (0.05, 0.05, 0.1, 0.1))
    shown = coverage(truth(large, tiny), 4, 4).reshape(4, 4, -1)
    assert shown[..., WORKER].sum() == 4 and shown[2:, 2:, WORKER].all()
    assert shown[0, 0, CONE] == 1 and shown[..., CONE].sum() == 1


def test_an_object_between_cells_is_in_both() -> None:
    shown = coverage(truth(Thing("cone", (0.45, 0.1, 0.55, 0.2))), 2, 2).reshape(2, 2, -1)
    assert shown[0, :, CONE].tolist() == [1, 1]


def test_objects_outside_the_image_are_ignored() -> None:
    gone = truth(Thing("cone", (1.0, 0.2, 1.0, 0.4)))
    assert coverage(gone, 4, 4).sum() == 0
    assert presence(gone).sum() == 0
    assert scene_reasoning(gone).startswith("cones 0")


def test_every_rendered_scene_has_reasoning_and_targets() -> None:
    for seed in range(30):
        scene = scenes.photo(seed, scale=0.1).truth
        assert np.array_equal(coverage(scene, 14, 14).max(0) > 0, presence(scene) > 0)
        assert len(scene_reasoning(scene)) < 200


def test_reasoning_counts_objects_and_states_motion() -> None:
    things = [Thing("cone", (0.1 * i, 0.5, 0.1 * i + 0.05, 0.6)) for i in range(5)]
    still = truth(*things, Thing("machine", (0.6, 0.5, 0.9, 0.9)))
    moving = replace(still, things=(*things, Thing("machine", (0.6, 0.5, 0.9, 0.9), moving=True)))
    assert "cones many" in scene_reasoning(still) and "machines 1" in scene_reasoning(still)
    assert clip_reasoning(still).endswith("work moving no")
    assert clip_reasoning(moving).endswith("work moving yes")


def test_text_is_readable_where_a_sign_decides_or_is_large() -> None:
    far, near = Thing("sign_begin", (0.5, 0.5, 0.51, 0.51), "ROAD WORK"), Thing("sign_end", (0.5, 0.3, 0.6, 0.5), "END")
    advert = Thing("sign_neutral", (0.5, 0.3, 0.6, 0.5), "OPEN TODAY")
    assert not has_readable_text(truth(far))
    assert has_readable_text(truth(far, needs="signs"))
    assert has_readable_text(truth(near))
    assert not has_readable_text(truth(advert))
