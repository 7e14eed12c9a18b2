"""The entry point `vllm.general_plugins` of this package, which vLLM calls in each of its processes."""

# vLLM is not in every environment:
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from roadwork_serve.errors import ConfigError

MOLMO = "Molmo2ForConditionalGeneration"
CLASS = "roadwork_serve.engines.vllm_molmo:Molmo2WithAddedFeatures"


def register() -> None:
    """Register this package's classes in place of those of vLLM."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(MOLMO, CLASS)


def check_registered() -> None:
    """Check that vLLM has called the entry point.

    Raises:
        ConfigError: The installed package has no entry point, since it was installed before it had one.
    """
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    if getattr(ModelRegistry.models[MOLMO], "module_name", "") != CLASS.partition(":")[0]:
        raise ConfigError(
            "vLLM does not know the entry point vllm.general_plugins of roadwork-serve, without which Molmo 2 would "
            "answer wrongly: install this package again with `make gpu`, and remove VLLM_PLUGINS from the environment"
        )
