"""Training data of the miniatures: rendered scenes in a resumable cache, and real photos.

The cache is a folder of shards that are written atomically, so a stopped run resumes where it was.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from roadwork_serve import media
from roadwork_serve.csv_files import read_csv
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.truth import Truth

SHARD = 250
TRAIN_SEEDS = range(1, 400_000)
CHECK_SEEDS = range(4_000_000_000, 4_000_100_000)  # checked during training
# Calibration uses seeds from 5,000,000,000, evaluation from 9,000,000,000: never drawn here.
LIMITS = MediaLimits(thumb_side=224)
LONG_SIDE = 448
CLIP_SIDE = 160
CLIP_FRAMES = 8


@dataclass(frozen=True)
class Photos:
    """Rendered photos."""

    #: uint8 [n, 224, 224, 3].
    thumbs: NDArray[np.uint8]
    #: The same photos, longer side 448.
    jpegs: tuple[bytes, ...]
    truths: tuple[Truth, ...]


@dataclass(frozen=True)
class Clips:
    """Rendered clips."""

    #: uint8 [n, 8, 160, 160, 3].
    frames: NDArray[np.uint8]
    truths: tuple[Truth, ...]


def render_photos(seeds: Sequence[int]) -> Photos:
    """Render the photos of the seeds: every fourth at full size, as in serving, the others at half size.

    Every fourteenth is a frame of a clip, so that stage 1 learns what a single frame cannot show.
    """
    thumbs, jpegs, truths = [], [], []
    for seed in seeds:
        scale = 1.0 if seed % 4 == 0 else 0.5
        photo = scenes.photo(seed, scale) if seed % 14 else scenes.clip_frame(seed, seed % 15 / 8, scale)
        encoded = photo.jpeg()
        thumbs.append(media.read(encoded, LIMITS).thumbs[0])
        jpegs.append(_jpeg(media.open_rgb(encoded, LONG_SIDE), 92))
        truths.append(photo.truth)
    return Photos(np.stack(thumbs), tuple(jpegs), tuple(truths))


def render_clips(seeds: Sequence[int]) -> Clips:
    """Render the clips of the seeds, eight frames each, with one JPEG pass in place of the video codec."""
    frames, truths = [], []
    for seed in seeds:
        clip = scenes.clip(seed, scale=0.5, frames=CLIP_FRAMES)
        compressed = [Image.open(io.BytesIO(_jpeg(frame, 85))).convert("RGB") for frame in clip.frames]
        frames.append(squash(np.stack([np.asarray(frame) for frame in compressed]), CLIP_SIDE))
        truths.append(clip.truth)
    return Clips(np.stack(frames), tuple(truths))


def fill(work: Path, kind: str, seeds: Sequence[int], workers: int = 2) -> "Cache":
    """Render the seeds that are missing from the cache in work, and open it. Prints ten progress lines.

    A folder belongs to one version of the renderer, so a change to it leaves no stale scenes.
    """
    cache = work / f"{kind}-{renderer_version()}"
    cache.mkdir(parents=True, exist_ok=True)
    parts = [tuple(seeds[i : i + SHARD]) for i in range(0, len(seeds), SHARD)]
    missing = [part for part in parts if not _shard(cache, part).exists()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_fill_one, cache, kind, part) for part in missing]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            if done % max(1, len(jobs) // 10) == 0:
                print(f"{kind}: {done} of {len(jobs)} shards rendered", flush=True)
    return Cache.open([_shard(cache, part) for part in parts])


def renderer_version() -> str:
    """Return a short hash of the sources that draw the scenes."""
    sources = sorted(Path(scenes.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:10]


def _shard(cache: Path, part: Sequence[int]) -> Path:
    return cache / f"{part[0]}-{part[-1]}"


def _fill_one(cache: Path, kind: str, part: Sequence[int]) -> None:
    torch.set_num_threads(1)
    target = _shard(cache, part)
    draft = target.with_suffix(f".draft-{os.getpid()}")
    draft.mkdir(exist_ok=True)
    if kind == "photos":
        photos = render_photos(part)
        np.save(draft / "pixels.npy", photos.thumbs)
        (draft / "rest.pkl").write_bytes(pickle.dumps((photos.jpegs, photos.truths)))
    else:
        clips = render_clips(part)
        np.save(draft / "pixels.npy", clips.frames)
        (draft / "rest.pkl").write_bytes(pickle.dumps(((), clips.truths)))
    draft.rename(target)


def squash(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize [n, height, width, 3] to squares as Molmo 2's video processor does: bilinear, without antialiasing."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
    return small.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@dataclass(frozen=True)
class Cache:
    """Shards of one kind, pixels memory-mapped."""

    pixels: tuple[NDArray[np.uint8], ...]
    jpegs: tuple[bytes, ...]
    truths: tuple[Truth, ...]
    _starts: tuple[int, ...]

    @classmethod
    def open(cls, shards: Sequence[Path]) -> "Cache":
        """Open the shards."""
        pixels, jpegs, truths, starts = [], [], [], []
        for shard in shards:
            starts.append(len(truths))
            pixels.append(np.load(shard / "pixels.npy", mmap_mode="r"))
            some_jpegs, some_truths = pickle.loads((shard / "rest.pkl").read_bytes())  # noqa: S301 - our own cache
            jpegs += some_jpegs
            truths += some_truths
        return cls(tuple(pixels), tuple(jpegs), tuple(truths), tuple(starts))

    def __len__(self) -> int:
        return len(self.truths)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of one photo or clip."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return np.array(self.pixels[part][index - self._starts[part]])


@dataclass(frozen=True)
class RealPhoto:
    """A real photo or video frame whose licence allows training shipped weights on it."""

    image: Image.Image
    label: bool
    group: str
    #: Repository of the photo; empty for a frame of a clip.
    source: str = ""


OPEN_LICENCES = ("ODC-By", "MIT", "CC BY 4.0")
NOT_OPEN = ("NC", "web images", "BDD100K", "Cityscapes", "unlicensed", "evaluation only", "TuSimple")
HELD_OUT_GROUPS = frozenset({"clip_houston", "clip_philadelphia", "houston", "philadelphia"})


def photos_folder(named: Path | None = None) -> Path | None:
    """Return the folder of real photos: as named, from ROADWORK_PHOTOS, or beside the checkout; None without one."""
    folders = [named, Path(os.environ["ROADWORK_PHOTOS"]) if "ROADWORK_PHOTOS" in os.environ else None]
    folders.append(Path(__file__).parents[3].parent / "shared/data/photos")
    return next((p for p in folders if p and (p / "manifest.csv").exists()), None)


def real_photos(folder: Path) -> Iterator[RealPhoto]:
    """Yield the photos and clip frames that may be trained on, without the held-out groups."""
    for row in read_csv(folder / "manifest.csv", required=("file", "label", "licence", "notes")).rows:
        licence, notes = row["licence"], row["notes"]
        group = next((n.strip()[6:] for n in notes.split(";") if n.strip().startswith("group=")), row["file"])
        allowed = any(name in licence for name in OPEN_LICENCES) and not any(name in licence for name in NOT_OPEN)
        if allowed and "AMBIGUOUS" not in notes and group not in HELD_OUT_GROUPS and (folder / row["file"]).exists():
            image = Image.open(folder / row["file"]).convert("RGB")
            yield RealPhoto(_fit(image, 640), row["label"] == "roadwork", group, row["source_repo"])
    yield from _clip_frames(folder)


def declared(photos: Iterable[RealPhoto]) -> TrainingData:
    """Return what `training.json` declares of these photos: the source, or the group of those without one."""
    named = [(photo.source, photo.group) for photo in photos]
    return TrainingData(
        sources=frozenset(source for source, _ in named if source),
        groups=frozenset(group for source, group in named if not source),
    )


def in_batches(order: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Return an order cut into whole batches without its rest; fewer indices than one batch are a smaller one."""
    return [order[start : start + size] for start in range(0, max(len(order) - size, 0) + 1, size)]


def some_real(photos: Sequence[RealPhoto], rng: np.random.Generator) -> RealPhoto:
    """Return a random photo, with both labels equally likely if there are both."""
    wanted = bool(rng.random() < 0.5)
    candidates = [photo for photo in photos if photo.label == wanted] or photos
    return candidates[int(rng.integers(len(candidates)))]


def real_crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a random crop of at least two thirds, at the given size."""
    share = rng.uniform(0.66, 1.0)
    w, h = round(image.width * share), round(image.height * share)
    x, y = int(rng.integers(image.width - w + 1)), int(rng.integers(image.height - h + 1))
    return image.resize(size, box=(x, y, x + w, y + h), reducing_gap=2.0)


def _clip_frames(folder: Path) -> Iterator[RealPhoto]:
    import av

    wanted: dict[str, dict[int, bool]] = {}
    for row in read_csv(folder / "clips/frame_labels.csv", required=("clip", "frame", "label")).rows:
        if row["label"] != "unclear" and Path(row["clip"]).stem not in HELD_OUT_GROUPS:
            wanted.setdefault(row["clip"], {})[int(row["frame"])] = row["label"] == "roadwork"
    for name, frames in wanted.items():
        with av.open(str(folder / name)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in frames:
                    yield RealPhoto(_fit(frame.to_image(), 640), frames[index], f"clip_{Path(name).stem}")


def _fit(image: Image.Image, long_side: int) -> Image.Image:
    scale = long_side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR, reducing_gap=2.0
    )


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
