"""The test track: correct ground truth, reproducible scenes, and a need for every stage."""

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.scenarios import PLAIN, SIGN_PX, SMALL, clip_scene, photo_scene
from roadwork_serve.testbed.scenes.signs import PHRASES

STAGES = {"backbone", "signs", "vlm", "reasoner"}
COUNTS = ("cone", "barrel", "barrier", "worker", "machine")
SCENES = [photo_scene(seed) for seed in range(1500)]
CLIPS = [clip_scene(seed) for seed in range(400)]


def test_the_same_seed_gives_the_same_pixels_and_truth() -> None:
    one, two = scenes.photo(11), scenes.photo(11)
    assert one.truth == two.truth
    assert np.array_equal(np.asarray(one.image), np.asarray(two.image))
    assert one.jpeg() == two.jpeg()
    assert scenes.photo(12).truth != one.truth


def test_a_scene_drawn_small_is_the_same_scene() -> None:
    full, half = scenes.photo(25), scenes.photo(25, scale=0.5)
    assert half.truth == full.truth
    assert half.image.size == (full.image.width // 2, full.image.height // 2)
    small = np.asarray(full.image.resize((64, 64), Image.Resampling.BOX)).astype(int)
    again = np.asarray(half.image.resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - again).mean() < 4


def test_labels_are_balanced_and_every_stage_is_needed() -> None:
    assert 0.4 < np.mean([scene.truth.label for scene in SCENES]) < 0.6
    needs = Counter(scene.truth.needs for scene in SCENES)
    assert set(needs) == STAGES
    assert 0.6 < needs["backbone"] / len(SCENES) < 0.8
    for stage in STAGES - {"backbone"}:
        labels = [scene.truth.label for scene in SCENES if scene.truth.needs == stage]
        assert len(labels) > 30
        assert 0.35 < np.mean(labels) < 0.65, f"{stage} could be guessed"
    moving = [scene.truth.label for scene in CLIPS if scene.truth.needs == "video"]
    assert 0.4 < np.mean(moving) < 0.6


@given(st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_every_box_is_inside_the_image(seed: int) -> None:
    for scene in (photo_scene(seed), clip_scene(seed)):
        for thing in scene.truth.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 <= x1 <= 1
            assert 0 <= y0 <= y1 <= 1


def test_labels_of_stills_follow_the_labelling_rule() -> None:
    for scene in SCENES:
        kinds = {thing.kind for thing in scene.truth.things}
        if scene.truth.activity in ("working", "open_area"):
            assert scene.truth.label
            assert kinds & {"cone", "barrel", "barrier"}
        if scene.truth.activity == "single_object":
            assert scene.truth.label
            assert sum(thing.kind in COUNTS for thing in scene.truth.things) == 1
        if scene.truth.activity == "left_behind":
            assert not scene.truth.label
            assert "sign_end" in kinds
        if scene.truth.activity == "announced":
            assert scene.truth.label
            assert kinds & {"sign_begin", "sign_closure", "sign_detour", "sign_worker"}
        if not scene.truth.label and scene.truth.needs != "signs":
            assert not kinds & set(COUNTS), f"seed {scene.seed} shows work and is labelled none"


def test_signs_have_a_text_of_their_kind() -> None:
    for scene in SCENES:
        for thing in scene.truth.things:
            if thing.kind in PHRASES:
                assert thing.text in {" ".join(lines) for lines in PHRASES[thing.kind]}
        if scene.truth.needs == "signs":
            boards = [a for a in scene.objects if a.board and a.kind in PHRASES]
            widest = max(a.height_m * a.aspect * scene.camera.per_metre(a.z) for a in boards)
            assert widest > 0.6 * SIGN_PX[0]


def test_objects_for_later_stages_are_smaller_than_those_for_the_backbone() -> None:
    def tall(scene: object) -> float:
        things = [t for t in scene.truth.things if t.kind in ("cone", "barrel", "barrier")]  # type: ignore[attr-defined]
        return 224 * max(t.box[3] - t.box[1] for t in things)

    plain = [
        tall(s) for s in SCENES if s.truth.needs == "backbone" and s.truth.activity == "single_object" and _cone(s)
    ]
    small = [tall(s) for s in SCENES if s.truth.needs == "vlm" and s.truth.activity == "single_object" and _cone(s)]
    assert min(plain) > max(small)
    assert min(plain) > PLAIN[0] * 0.85
    assert max(small) < SMALL[1] * 1.2


def _cone(scene: object) -> bool:
    return any(t.kind in ("cone", "barrel", "barrier") for t in scene.truth.things)  # type: ignore[attr-defined]


def test_active_machines_move_and_abandoned_ones_do_not() -> None:
    calm = [s for s in CLIPS if s.truth.needs == "video" and s.ego_speed == 0 and s.conditions.weather == "clear"]
    seeds = {label: next(s.seed for s in calm if s.truth.label is label) for label in (True, False)}
    change = {}
    for label, seed in seeds.items():
        clip = scenes.clip(seed, scale=0.5, frames=4)
        machine = next(t for t in clip.truth.things if t.kind == "machine")
        assert machine.moving is label
        w, h = clip.frames[0].size
        box = tuple(round(v) for v in np.array(machine.box) * (w, h, w, h))
        crops = [np.asarray(frame.crop(box)).astype(int) for frame in clip.frames]
        change[label] = max(np.abs(crop - crops[0]).mean() for crop in crops[1:])
    assert change[True] > 2 * change[False]


def test_a_frame_of_a_clip_is_the_frame_of_the_clip() -> None:
    clip = scenes.clip(5, scale=0.25)
    frame = scenes.clip_frame(5, clip.timestamps_s[4], scale=0.25)
    assert frame.truth == clip.truth
    assert np.array_equal(np.asarray(frame.image), np.asarray(clip.frames[4]))


def test_files_have_the_declared_formats() -> None:
    photo, clip = scenes.photo(3), scenes.clip(3, scale=0.5)
    assert Image.open(io.BytesIO(photo.jpeg())).format == "JPEG"
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(clip.mp4())) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == scenes.CLIP_FRAMES
    assert frames[0].size == clip.frames[0].size


def test_moments_match_the_rendered_frames() -> None:
    seed = next(s for s in range(200) if scenes.clip(s, 0.1, 1).truth.activity == "working" and movers(s))
    moments = scenes.clip_moments(seed, 4)
    assert [t.kind for t in moments[0].things] == [t.kind for t in scenes.clip(seed, 0.1, 1).truth.things]
    for which, swings in enumerate(zip(*(m.swings for m in moments), strict=True)):
        thing = moments[0].things[which]
        assert (None in swings) == (thing.kind not in ("worker", "machine"))
        if thing.kind == "machine" and None not in swings:
            assert thing.moving == (len(set(swings)) > 1)


def movers(seed: int) -> bool:
    """Return whether a clip shows an active machine with an arm, and its camera is still enough to keep it in view."""
    first, *_, last = scenes.clip_moments(seed, 4)
    arms = [s for t, s in zip(first.things, first.swings, strict=True) if t.kind == "machine" and s is not None]
    rollers = [t for t, s in zip(first.things, first.swings, strict=True) if t.kind == "machine" and s is None]
    return bool(arms) and not rollers and len(first.things) == len(last.things)
