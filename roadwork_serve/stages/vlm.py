"""Stages 2B and 3A: a vision language model answers YES or NO about an image, immediately or after reasoning."""

from PIL import Image

from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.vlm import LanguageEngine, Prompt
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.language import Abstain, LanguageStage, open_for_model
from roadwork_serve.stages.options import validated

MAX_SIDE, MINIATURE_SIDE = 1024, 448
REASONING_TOKENS = 256


class Vlm(LanguageStage):
    """Predicts for photos, and for the middle frame of a clip.

    Options: thinking (generate reasoning before the answer), reasoning_tokens (its token budget), max_side (longer
    side to which images are scaled down, in pixels).
    """

    def __init__(self, name: StageName, spec: StageSpec, model: EngineSpec, engine: LanguageEngine) -> None:
        """Create the stage.

        Raises:
            ConfigError: An option is unknown or invalid.
        """
        options = validated(name, spec.options, thinking=bool, reasoning_tokens=int, max_side=int)
        thinking = options.get("thinking", False)
        super().__init__(
            name,
            model,
            engine,
            max_side=options.get("max_side", MINIATURE_SIDE if model.miniature else MAX_SIDE),
            reasoning_tokens=options.get("reasoning_tokens", REASONING_TOKENS) if thinking else 0,
        )
        self.question = spec.task.reasoning_prompt() if thinking else spec.task.prompt()

    def prompt(self, item: Item) -> Prompt:
        """See `LanguageStage`."""
        if not item.images:
            raise Abstain("the item has no image")
        return Prompt(self.question, (open_for_model(item.images[len(item.images) // 2], self.max_side),))

    def warm_up_prompt(self) -> Prompt:
        """See `LanguageStage`."""
        return Prompt(self.question, (Image.new("RGB", (320, 240)),))
