"""Items made of rendered scenes, and stages over untrained models."""

from dataclasses import replace
from pathlib import Path

from roadwork_serve import media
from roadwork_serve.cascade.prediction import Item, Stage
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.load import open_stages
from roadwork_serve.testbed import scenes


def photo(seed: int) -> Item:
    """Return a small still."""
    data = scenes.photo(seed, scale=0.4).jpeg()
    item = Item.of(media.read(data, MediaLimits()), f"photo-{seed}", 1e9)
    return replace(item, images=(media.page(data, MediaLimits()),))


def clip(seed: int) -> Item:
    """Return a small clip."""
    return Item.of(media.read(scenes.clip(seed, scale=0.5).mp4(), MediaLimits()), f"clip-{seed}", 1e9)


def opened(name: StageName, folder: Path, **options: object) -> Stage:
    """Return a stage over the model in a folder."""
    engine = EngineSpec(backend="transformers", model=str(folder), miniature=True)
    return open_stages(engine, {name: StageSpec(engine="tiny", options=options)})[name]
