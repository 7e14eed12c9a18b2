"""Hotkeys and their signatures: sr25519, by the library that bittensor itself uses."""

import bittensor_core  # pyright: ignore - it has no types


def verify(message: bytes, signature: bytes, hotkey: str) -> bool:
    """Whether the hotkey, ss58, signed the message. False for what is no hotkey at all."""
    try:
        return bool(bittensor_core.verify(message, signature, hotkey))  # pyright: ignore
    except ValueError:
        return False


def is_hotkey(told: str) -> bool:
    """Whether this is an address, ss58, of Bittensor's format 42, without a slip of the pen."""
    try:
        return bool(bittensor_core.ss58_encode(bittensor_core.ss58_decode(told)) == told)  # pyright: ignore
    except ValueError:
        return False
