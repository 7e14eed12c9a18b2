from pathlib import Path

import pytest
import yaml

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import bundled, load_policy_mapping, load_profile
from roadwork_serve.profiles.stage_kinds import STAGES

ONE_STAGE = {
    "engines": {"dinov3": {"backend": "transformers", "model": "bundled:backbone"}},
    "stages": {"backbone": {"engine": "dinov3"}},
}


def test_every_bundled_profile_loads_with_its_policy() -> None:
    assert "mini" in bundled()
    for name in bundled():
        profile = load_profile(name)
        assert profile.name == name
        assert load_policy_mapping(profile.policy)["version"]


def test_mini_fits_two_cores() -> None:
    profile = load_profile("mini")
    engines = profile.engines.values()
    reserved = profile.ingress.num_cpus + sum(engine.num_cpus * engine.replicas for engine in engines)
    assert set(profile.stages) == set(STAGES) - {"closeup"}
    assert reserved <= 2
    assert all(engine.device == "cpu" and engine.threads <= 2 for engine in engines)
    assert len(profile.users()) == len(profile.stages)


def test_a_profile_loads_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "policy": "mini", **ONE_STAGE}))
    assert load_profile(path).name == load_profile(str(path)).name == "mine"


def test_overrides_change_one_field_and_keep_the_rest() -> None:
    plain, changed = load_profile("mini"), load_profile("mini", {"stages": {"vlm": {"max_batch": 3}}})
    assert changed.stages["vlm"] == plain.stages["vlm"].model_copy(update={"max_batch": 3})
    assert changed.stages["backbone"] == plain.stages["backbone"]


def test_an_override_of_none_removes_a_stage() -> None:
    assert set(load_profile("mini", {"stages": {"video": None}}).stages) == set(STAGES) - {"closeup", "video"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"stages": {"vlm": {"max_batch": 0}}},
            r"stages\.vlm\.max_batch is 0; it should be greater than or equal to 1",
        ),
        ({"stages": {"vlm": {"max_btch": 1}}}, r"stages\.vlm\.max_btch is not a known field; did you mean max_batch\?"),
        ({"media": {"zzz": 1}}, r"media\.zzz is not a known field; remove it"),
        ({"stages": {"oracle": {}}}, r"stages\.oracle is 'oracle'; it should be 'backbone', "),
        ({"policy": None}, r"policy is missing; add it"),
        ({"media": {"thumb_side": 8}}, r"media\.thumb_side is 8; it should be greater than or equal to 14"),
        ({"stages": dict.fromkeys(STAGES)}, r"stages is empty; add at least one of backbone, .* the engine it uses"),
        (
            {"engines": {"ocr": None}},
            r"stages\.signs\.engine: there is no engine 'ocr'; add it to engines, or name one ",
        ),
        ({"stages": {"vlm": {"engine": "ocr"}}}, r"engines\.ocr is used by signs, vlm, which need different kinds"),
    ],
)
def test_an_invalid_field_is_named_with_the_fix(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^profile mini with overrides: .*{message}"):
        load_profile("mini", overrides)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"profile 'gpu-9000' does not ship .* mini"):
        load_profile("gpu-9000")
    with pytest.raises(ConfigError, match=r"policy 'strict' does not ship .* mini"):
        load_policy_mapping("strict")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "is not valid YAML"), ("- 1", "holds a list"), ("", "holds a NoneType")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{path}.* {message}|{path} {message}"):
        load_profile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: there is no such file"):
        load_policy_mapping(tmp_path / "gone.yaml")
