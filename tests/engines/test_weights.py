import pytest

from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError


def test_hub_ids_and_paths_pass_through() -> None:
    assert weights_folder("Qwen/Qwen3-VL-8B-Instruct") == "Qwen/Qwen3-VL-8B-Instruct"
    assert weights_folder("/models/vlm") == "/models/vlm"


def test_a_miniature_that_is_not_there_says_how_to_make_it() -> None:
    with pytest.raises(ModelError, match="roadwork minis train nobody"):
        weights_folder("mini:nobody")
