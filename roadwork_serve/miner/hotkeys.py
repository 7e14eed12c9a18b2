"""Hotkeys and their sr25519 signatures, with the library that bittensor itself uses."""

import bittensor_core  # pyright: ignore - it has no types


def verify(message: bytes, signature: bytes, hotkey: str) -> bool:
    """Return True if the hotkey, ss58, signed the message."""
    try:
        return bool(bittensor_core.verify(message, signature, hotkey))  # pyright: ignore
    except ValueError:
        return False


def is_hotkey(text: str) -> bool:
    """Return True if this is a valid ss58 address of Bittensor's format 42."""
    try:
        return bool(bittensor_core.ss58_encode(bittensor_core.ss58_decode(text)) == text)  # pyright: ignore
    except ValueError:
        return False
