"""Generates pictures by rendering scenes; needs no model."""

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.scenarios import photo_scene
from roadwork_serve.testbed.scenes.truth import ThingKind, Truth
from roadwork_serve.testbed.synthesis.generated_image import GeneratedImage
from roadwork_serve.testbed.synthesis.prompts import ELEMENTS, ImagePrompt, Lookalike

_MAX_SCENES = 20_000  # searched for one that fits; every kind occurs among a few hundred
_WORKS = (*ELEMENTS, "barrel", "arrow_board")
_LOOKALIKES: dict[Lookalike, ThingKind] = {
    "end_sign": "sign_end",
    "cones_on_lorry": "lorry_with_cones",
    "orange_car": "parked_cones",  # cars in the scenes have any colour, so cones in a yard take their place
    "cyclist": "cyclist",
    "low_loader": "low_loader",
}


class SceneGenerator:
    """Renders the first scene, from the prompt's seed on, that shows what the prompt asks for."""

    name, model, licence = "scenes", "rendered scenes", "Apache-2.0"

    def generate(self, prompt: ImagePrompt) -> GeneratedImage:
        """See `ImageGenerator`. Raises ConfigError when no scene fits."""
        for seed in range(prompt.seed, prompt.seed + _MAX_SCENES):
            truth = photo_scene(seed).truth
            if _fits(truth, prompt):
                if prompt.element:
                    tags = (prompt.element,)
                else:
                    tags = (_LOOKALIKES[prompt.lookalike],) if prompt.lookalike else ()
                return GeneratedImage(scenes.photo(seed).jpeg(), seed, (*truth.tags, *tags))
        raise ConfigError(f"no scene from seed {prompt.seed} on fits prompt {prompt.index}; use another --seed")


def _fits(truth: Truth, prompt: ImagePrompt) -> bool:
    """Return whether the scene shows the one element, or the lookalike, or neither, as the prompt asks."""
    visible = [thing.kind for thing in truth.things if thing.box[2] > thing.box[0] and thing.box[3] > thing.box[1]]
    works = [kind for kind in visible if kind in _WORKS]
    lookalikes = [kind for kind in visible if kind in _LOOKALIKES.values()]
    if prompt.element is not None:
        return truth.label and truth.activity == "single_object" and works == [prompt.element]
    if prompt.lookalike is not None:
        return not truth.label and _LOOKALIKES[prompt.lookalike] in lookalikes
    return not truth.label and not works and not lookalikes
