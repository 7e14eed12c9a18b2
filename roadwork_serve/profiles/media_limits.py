"""The part of a profile that describes the limits of photos and clips."""

from pydantic import Field

from roadwork_serve.profiles.settings import Settings


class MediaLimits(Settings):
    """Limits on media. A file beyond them is rejected before any work is done on it."""

    max_bytes: int = Field(default=32 * 2**20, gt=0, description="Largest file in bytes.")
    max_pixels: int = Field(
        default=50_000_000, gt=0, description="Largest photo, or largest frame of a clip, in pixels."
    )
    max_aspect: float = Field(
        default=50.0, ge=1, description="Largest ratio of the longer side of a photo or clip to the shorter one."
    )
    max_seconds: float = Field(default=120.0, gt=0, description="Longest clip in seconds.")
    max_clip_frames: int = Field(default=7200, gt=0, description="Largest number of frames a clip may declare or hold.")
    max_decode_s: float = Field(
        default=15.0, gt=0, description="Longest time decoding one file may take in seconds, without queueing."
    )
    frames: int = Field(default=8, ge=1, le=64, description="Number of frames sampled from a clip.")
    thumb_side: int = Field(
        default=224,
        ge=14,
        description="Side of the square thumbnail that stage 1 sees, in pixels. A multiple of its backbone's patch: "
        "16 for the ViTs of DINOv3, 14 for DINOv2, 32 for a ConvNeXt.",
    )
    page_side: int = Field(
        default=1536,
        ge=224,
        description="Longer side to which photos are scaled for the later stages, in pixels.",
    )
    frame_side: int = Field(
        default=960,
        ge=224,
        description="Longer side to which frames of a clip are scaled for the later stages, in pixels.",
    )
