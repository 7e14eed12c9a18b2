import pytest

from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError


def test_hub_ids_and_paths_pass_through() -> None:
    assert weights_folder("Qwen/Qwen3-VL-8B-Instruct") == "Qwen/Qwen3-VL-8B-Instruct"
    assert weights_folder("/models/vlm") == "/models/vlm"


def test_an_unknown_name_is_an_error_that_lists_the_bundled_weights() -> None:
    with pytest.raises(ModelError, match="no weights 'nobody': use one of backbone, efficientnet-lite2, video, vlm"):
        weights_folder("bundled:nobody")
