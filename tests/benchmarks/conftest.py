"""Ray is imported once, without its own warnings, which would be errors here."""

import warnings

with warnings.catch_warnings(action="ignore"):
    import ray.serve  # noqa: F401
