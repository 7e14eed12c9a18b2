import io
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters
from transformers import DINOv3ViTImageProcessor, DINOv3ViTModel

from roadwork_serve import media
from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.engines import backbones, onnx_folder
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.thumbnails import batch_sizes, batches, reference_thumbs
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.testbed import scenes
from tests import untrained
from tests.engines.tiny import tiny_dino
from tests.recording_lock import PausePoint

THUMBS = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
TOLD = r"`roadwork minis train backbone`.* engines\.NAME\.features\.head of the profile"


def test_recipes_join_the_parts_in_order() -> None:
    engine = FeatureEngine(str(untrained.backbone()))
    width = engine.backbone.width
    whole = engine.features(THUMBS, "cls+mean+max")
    assert whole.shape == (3, 3 * width)
    assert torch.allclose(whole[:, :width], engine.features(THUMBS, "cls"))
    assert (whole[:, 2 * width :] >= whole[:, width : 2 * width]).all()


def test_a_batch_scores_as_each_alone() -> None:
    engine = FeatureEngine(str(untrained.backbone()))
    together = engine.logits(THUMBS)
    assert set(together) == {"roadwork", "words"}
    alone = [engine.logits(THUMBS[i : i + 1])["words"][0] for i in range(3)]
    assert together["words"] == pytest.approx(alone, abs=1e-4)


def test_a_head_round_trips_through_its_files(tmp_path) -> None:
    head = Head(HeadSettings(width=8, recipe="cls+mean", hidden=4)).eval()
    head.save(tmp_path)
    assert torch.equal(Head.load(tmp_path).eval()(torch.ones(1, 16)), head(torch.ones(1, 16)))


def test_a_head_of_another_backbone_is_rejected(tmp_path) -> None:
    Head(HeadSettings(width=8)).save(tmp_path)
    with pytest.raises(ModelError, match="train a head for this backbone"):
        FeatureEngine(str(untrained.backbone(head=False)), head_folder=tmp_path)


def test_a_broken_head_is_rejected(tmp_path) -> None:
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"head in {tmp_path} cannot be read.*{TOLD}"):
        Head.load(tmp_path)


def test_without_a_head_there_are_no_logits() -> None:
    with pytest.raises(ModelError, match=rf"no head yet.*{TOLD}"):
        FeatureEngine(str(untrained.backbone(head=False))).logits(THUMBS)


def test_a_head_folder_without_a_head_is_rejected(tmp_path) -> None:
    with pytest.raises(ModelError, match=rf"head in {tmp_path} cannot be read"):
        FeatureEngine(str(untrained.backbone()), head_folder=tmp_path)


@pytest.mark.parametrize("side", [224, 256, 512])
@pytest.mark.parametrize(("kind", "most", "mean"), [("PNG", 1.01, 0.35), ("JPEG", 32, 1.0)])
def test_thumbnails_match_the_models_own_image_processor(side: int, kind: str, most: float, mean: float) -> None:
    """Differences in levels of 255: a PNG is never off by more than the rounding to uint8, one level.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where it is that large; edges may differ, the mean by less than a level.
    """
    encoded = io.BytesIO()
    Image.open(io.BytesIO(scenes.photo(5).jpeg())).convert("RGB").save(encoded, kind, quality=92)
    processor = DINOv3ViTImageProcessor(size={"height": side, "width": side})
    wanted = processor(Image.open(encoded).convert("RGB"), return_tensors="pt")["pixel_values"]
    thumbs = media.read(encoded.getvalue(), MediaLimits(thumb_side=side)).thumbs
    seen: list[torch.Tensor] = []
    engine = FeatureEngine(str(untrained.backbone()), side=side)
    engine.backbone.register_forward_pre_hook(lambda _, given: seen.extend(given))
    engine.features(thumbs)
    off = (seen[0] - wanted).abs() * torch.tensor(onnx_folder.PIXEL_STD).view(1, 3, 1, 1) * 255
    assert off.max() <= most
    assert off.mean() <= mean


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_nearly_gives_the_same_logits(dtype: str) -> None:
    half, full = (
        FeatureEngine(str(untrained.backbone()), options=LoadOptions(dtype=kind)) for kind in (dtype, "float32")
    )
    half.warm()
    assert half.backbone.dtype is getattr(torch, dtype)
    assert half.logits(THUMBS)["roadwork"] == pytest.approx(full.logits(THUMBS)["roadwork"], abs=0.05)


def test_a_precision_that_overflows_is_rejected_at_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FeatureEngine(str(untrained.backbone()), options=LoadOptions(dtype="float16"))
    engine.backbone.model.norm.weight.data *= 1e5
    with pytest.raises(ModelError, match=r"overflows in torch\.float16: set dtype: bfloat16"):
        engine.warm()


def test_the_gated_models_load(tmp_path: Path) -> None:
    """h16plus and 7b16 have gated MLPs; load_pretrained rejects missing weights."""
    engine = FeatureEngine(tiny_dino(tmp_path, use_gated_mlp=True, hidden_act="silu"), side=32)
    assert type(engine.backbone.model.model.layer[0].mlp).__name__ == "DINOv3ViTGatedMLP"
    engine.warm()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit torch.compile to its front end, which decides on recompilation, and fail on graph breaks."""
    torch._dynamo.reset()  # graphs of other tests would be found again
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))


def test_a_compiled_model_is_compiled_at_warm_up_and_never_again(tmp_path: Path, traced: None) -> None:
    folder = tiny_dino(tmp_path)
    engine = FeatureEngine(folder, side=32, max_thumbs=300, compile=True)
    plain = FeatureEngine(folder, side=32)
    before = counters["stats"]["unique_graphs"]
    engine.warm()
    compiled = counters["stats"]["unique_graphs"]
    assert compiled - before == len(batch_sizes(300)) == 15  # more than the eight that PyTorch keeps by default

    def serve() -> None:
        for count in (1, 2, 3, 31, 300, 303):
            thumbs = reference_thumbs(32, count)
            compared[count] = engine.logits(thumbs)["words"], plain.logits(thumbs)["words"]

    compared: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    thread = Thread(target=serve)  # like the stage, which warms up and predicts in threads
    thread.start()
    thread.join()
    assert len(compared) == 6
    for count, (of_compiled, of_plain) in compared.items():
        assert of_compiled.shape == (count,)
        assert of_compiled == pytest.approx(of_plain, abs=1e-5)
    assert counters["stats"]["unique_graphs"] == compiled
    with pytest.raises(ModelError, match="compiled for thumbnails of 32 px, and these have 48"):
        engine.logits(reference_thumbs(48, 1))


def test_it_is_compiled_on_a_gpu_and_not_on_a_cpu_unless_asked(tmp_path: Path, traced: None) -> None:
    folder = tiny_dino(tmp_path)
    assert not FeatureEngine(folder, side=32).compiled
    assert FeatureEngine(folder, side=32, compile=True).compiled


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Return a second head that uses another recipe than `tiny_dino`'s own."""
    folder = tmp_path / "second"
    folder.mkdir()
    torch.manual_seed(1)
    Head(HeadSettings(width=24, recipe="cls+mean", hidden=8, outputs=("words", "roadwork"))).save(folder)
    return folder


@pytest.mark.parametrize("compile", [False, True])
def test_a_second_head_gives_its_own_logits_in_the_same_pass(
    tmp_path: Path, second: Path, compile: bool, traced: None
) -> None:
    model, thumbs = tiny_dino(tmp_path), reference_thumbs(32, 6)
    alone = FeatureEngine(model, side=32, head_folder=second).logits(thumbs)["roadwork"]
    plain = FeatureEngine(model, side=32).logits(thumbs)
    engine = FeatureEngine(model, side=32, max_thumbs=4, second_head_folder=second, compile=compile)
    engine.warm()
    seen: list[int] = []
    if not compile:  # a hook would break the graph
        engine.backbone.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = engine.logits(thumbs)
    assert set(found) == {"roadwork", "words", "second"}
    assert found["second"] == pytest.approx(alone, abs=1e-5)
    assert {name: found[name].tolist() for name in plain} == {
        name: pytest.approx(logits.tolist(), abs=1e-5) for name, logits in plain.items()
    }
    assert seen == ([] if compile else [4, 2])


def test_a_second_head_works_without_a_first(tmp_path: Path, second: Path) -> None:
    model = tiny_dino(tmp_path)
    wanted = FeatureEngine(model, side=32, head_folder=second).logits(reference_thumbs(32, 2))["roadwork"]
    (tmp_path / "head.json").unlink()
    engine = FeatureEngine(model, side=32, second_head_folder=second)
    assert engine.has_head
    assert {name: logits.tolist() for name, logits in engine.logits(reference_thumbs(32, 2)).items()} == {
        "second": pytest.approx(wanted.tolist(), abs=1e-6)
    }


def test_a_head_without_a_roadwork_output_is_rejected(tmp_path: Path, second: Path) -> None:
    Head(HeadSettings(width=24, outputs=("words",))).save(second)
    with pytest.raises(ModelError, match=rf"head in {second} has no output roadwork: name one that does"):
        FeatureEngine(tiny_dino(tmp_path), side=32, second_head_folder=second)


def test_large_batches_are_split_into_passes(tmp_path: Path) -> None:
    engine = FeatureEngine(tiny_dino(tmp_path), side=32, max_thumbs=4)
    seen: list[int] = []
    engine.backbone.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    together = engine.logits(reference_thumbs(32, 11))["words"]
    assert seen == [4, 4, 3]
    seen.clear()
    engine.warm()
    assert seen == [1, 4]
    alone = [engine.logits(thumb[None])["words"][0] for thumb in reference_thumbs(32, 11)]
    assert together == pytest.approx(alone, abs=1e-5)


async def test_a_cancelled_call_ends_after_its_current_pass(tmp_path: Path) -> None:
    engine, worker, pause = (
        FeatureEngine(tiny_dino(tmp_path), side=32, max_thumbs=2),
        CancellableThread("test"),
        PausePoint(at=2),
    )
    engine.backbone.register_forward_pre_hook(pause)
    await pause.cancel_there(worker.run(engine.logits, reference_thumbs(32, 20)))
    assert pause.steps == 2
    await worker.aclose()


def test_passes_cover_every_thumbnail_once() -> None:
    for count in range(1, 40):
        for most in range(1, 20):
            cuts = list(batches(count, most))
            assert [at for cut in cuts for at in range(count)[cut]] == list(range(count))
            assert max(cut.stop - cut.start for cut in cuts) <= most
    assert batch_sizes(1) == (1,)
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(20) == (1, 2, 4, 8, 12, 16, 20)
    assert batch_sizes(64) == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


def test_too_little_memory_for_the_largest_batch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FeatureEngine(tiny_dino(tmp_path), side=32, max_thumbs=4)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine.backbone.register_forward_pre_hook(full)
    with pytest.raises(
        ModelError, match=r"no memory left for 4 thumbnails of 32 px at once: lower features\.max_thumbs"
    ):
        engine.warm()


def test_a_side_that_is_no_multiple_of_the_patch_size_is_rejected() -> None:
    with pytest.raises(ModelError, match=r"patches of 16 pixels.*thumbnails, 100,.*media\.thumb_side"):
        FeatureEngine(str(untrained.backbone()), side=100)


def test_flash_attention_is_used_where_available(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: str, device: str) -> str:
        return backbones.attention(DINOv3ViTModel, LoadOptions(dtype=dtype, device=device))

    monkeypatch.setattr(backbones, "is_flash_attn_2_available", lambda: True)
    assert chosen("bfloat16", "cuda") == "flash_attention_2"
    assert chosen("float32", "cuda") == "sdpa"
    assert chosen("bfloat16", "cpu") == "sdpa"
    monkeypatch.setattr(backbones, "is_flash_attn_2_available", lambda: False)
    assert chosen("float16", "cuda") == "sdpa"
    assert FeatureEngine(str(untrained.backbone())).backbone.config._attn_implementation == "sdpa"
