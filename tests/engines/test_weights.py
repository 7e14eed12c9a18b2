import pytest

from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError


def test_hub_ids_and_paths_pass_through() -> None:
    assert weights_folder("Qwen/Qwen3-VL-8B-Instruct") == "Qwen/Qwen3-VL-8B-Instruct"
    assert weights_folder("/models/vlm") == "/models/vlm"


def test_a_missing_miniature_is_an_error_that_names_the_training_command() -> None:
    with pytest.raises(ModelError, match="roadwork minis train nobody"):
        weights_folder("mini:nobody")
