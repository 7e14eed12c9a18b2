"""Stable pseudo-random numbers: the same for a name in every process, on every machine, in any order."""

import hashlib


def stable_uniform(*words: str) -> float:
    """Return a number in [0, 1) that depends on the words alone; over many words it is uniformly distributed."""
    digest = hashlib.sha256("\n".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
