"""Items made of rendered scenes."""

from roadwork_serve import media, scenes
from roadwork_serve.cascade.opinion import Item
from roadwork_serve.profiles.profile import MediaLimits


def photo(seed: int) -> Item:
    """A small still."""
    return Item.of(media.read(scenes.photo(seed, scale=0.4).jpeg(), MediaLimits()), f"photo-{seed}", 1e9)


def clip(seed: int) -> Item:
    """A small clip."""
    return Item.of(media.read(scenes.clip(seed, scale=0.5).mp4(), MediaLimits()), f"clip-{seed}", 1e9)
