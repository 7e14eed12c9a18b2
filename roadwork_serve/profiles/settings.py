"""The base of all parts of a profile."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings that cannot be changed, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
