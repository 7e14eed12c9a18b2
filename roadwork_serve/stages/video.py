"""Stage 3B: a vision language model answers YES or NO about a clip, from frames with timestamps."""

from PIL import Image

from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.vlm import LanguageEngine, Prompt
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.language import Abstain, LanguageStage, open_for_model
from roadwork_serve.stages.options import validated

MAX_SIDE, MINIATURE_SIDE = 768, 320


class Video(LanguageStage):
    """Predicts for clips; a photo is a clip of one frame.

    Options: frames (largest number of frames in the prompt, evenly spaced; all by default), max_side (longer side to
    which they are scaled down before the model's own resizing, in pixels).
    """

    def __init__(self, name: StageName, spec: StageSpec, model: EngineSpec, engine: LanguageEngine) -> None:
        """Create the stage.

        Raises:
            ConfigError: An option is unknown or invalid.
        """
        options = validated(name, spec.options, frames=int, max_side=int)
        super().__init__(
            name, model, engine, max_side=options.get("max_side", MINIATURE_SIDE if model.miniature else MAX_SIDE)
        )
        self.frames, self.question = options.get("frames"), spec.task.clip_prompt()

    def prompt(self, item: Item) -> Prompt:
        """See `LanguageStage`."""
        frames, times = [], []
        reason = Abstain("the item has no image")
        for i in _evenly_spaced(len(item.images), self.frames or len(item.images)):
            try:
                frames.append(open_for_model(item.images[i], self.max_side))
            except Abstain as error:
                reason = error
            else:
                times.append(item.timestamps_s[i])
        if not frames:
            raise reason
        return Prompt(self.question, tuple(frames), tuple(times))

    def warm_up_prompt(self) -> Prompt:
        """See `LanguageStage`."""
        count = self.frames or 8
        return Prompt(self.question, (Image.new("RGB", (320, 240)),) * count, tuple(i / 4 for i in range(count)))


def _evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of `count` indices, evenly spaced from the first on."""
    return [i * count // wanted for i in range(wanted)] if wanted < count else list(range(count))
