import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.plan import Quantization, need_of, plan
from roadwork_serve.profiles.profile import EngineSpec, Profile, StageSpec
from roadwork_serve.profiles.published import on_meta_device
from tests import untrained

VLM, DINO = "Qwen/Qwen3-VL-8B-Instruct", "facebook/dinov3-vitl16-pretrain-lvd1689m"


def engine(model: str, share: float = 0.5) -> EngineSpec:
    return EngineSpec(runs="transformers", model=model, dtype="bfloat16", device="cuda", num_gpus=share)


def profile(**engines: EngineSpec) -> Profile:
    users = dict(zip(("backbone", "vlm", "reasoner", "video"), engines, strict=False))
    stages = {stage: StageSpec(engine=name, max_batch=4) for stage, name in users.items()}
    return Profile.model_validate({"name": "p", "policy": "mini", "engines": engines, "stages": stages})


# Millions of parameters, from the models' hub pages and papers.
@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("facebook/dinov3-vits16-pretrain-lvd1689m", 21.6),
        (DINO, 303),
        ("facebook/dinov3-vit7b16-pretrain-lvd1689m", 6716),
        ("florence-community/Florence-2-base", 232),
        ("florence-community/Florence-2-large", 771),
        ("Qwen/Qwen3-VL-4B-Thinking", 4440),
        ("Qwen/Qwen3-VL-8B-Instruct-FP8", 8770),
    ],
)
def test_sizes_are_those_published(model: str, millions: float) -> None:
    counted = sum(p.numel() for p in on_meta_device(model).parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("quantization", "gib"), [(None, 16.3), ("fp8", 9.9), ("awq", 6.8)])
def test_weights_are_those_of_the_published_checkpoints(quantization: Quantization | None, gib: float) -> None:
    assert need_of("qwen", engine(VLM), 1, quantization).weights == pytest.approx(gib, rel=0.01)


def test_the_cache_grows_with_prompts_and_context() -> None:
    one, four = (need_of("qwen", engine(VLM), prompts).kv_cache for prompts in (1, 4))
    assert one == pytest.approx(2048 * 144 / 2**20)  # 36 layers of 8 heads of 128, keys and values, 16 bit
    assert four == pytest.approx(4 * one)
    assert need_of("dino", engine(DINO), 16).kv_cache == 0


def test_engines_share_cards_as_their_shares_allow() -> None:
    first, second = plan(profile(dino=engine(DINO, 0.25), vlm=engine(VLM, 0.75), thinking=engine(VLM, 1.0)), [24, 24])
    assert [need.engine for need in first.needs] == ["dino", "vlm"]
    assert [need.engine for need in second.needs] == ["thinking"]
    assert 0 < first.left < second.left < 24


def test_what_does_not_fit_names_the_engine_to_shrink() -> None:
    with pytest.raises(ConfigError, match=r"card 0 of 12 GiB is .* GiB short: shrink engines\.vlm, which needs"):
        plan(profile(dino=engine(DINO), vlm=engine(VLM)), [12])
    with pytest.raises(ConfigError, match=r"engines\.vlm\.num_gpus is 0\.8 and no card has that much left"):
        plan(profile(dino=engine(DINO), vlm=engine(VLM, 0.8)), [24])


def test_engines_on_the_cpu_need_no_card() -> None:
    (card,) = plan(profile(dino=EngineSpec(runs="transformers", model="mini:backbone")), [24])
    assert card.needs == () and card.left == 24


def test_a_folder_is_counted_from_its_config() -> None:
    counted = sum(p.numel() for p in on_meta_device(str(untrained.vlm())).parameters())
    assert counted == need_of("mine", engine(str(untrained.vlm())), 1).parameters > 1e6


def test_a_model_nobody_knows_is_refused_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"config\.json, or one of .*Qwen/Qwen3-VL-8B-Instruct"):
        on_meta_device("someone/some-model")
