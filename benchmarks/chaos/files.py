"""The files that are sent: rendered scenes that are in no training or calibration set, and hostile files."""

from benchmarks.chaos.plan import File
from roadwork_serve.schema import MediaKind
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed
from tests.corpus import hostile_files

RUN_SEED = 9004  # of the scenes, as in `roadwork evaluate --seed`


def files(stills: int, clips: int) -> list[File]:
    """Return all files of a run, in memory. Rendering takes a tenth of a second each."""
    seeds = [scene_seed(RUN_SEED, index) for index in range(stills + clips)]
    kinds: list[MediaKind] = ["photo" if index < stills else "clip" for index in range(len(seeds))]
    scenes = list(zip(seeds, kinds, strict=True))
    found = [
        File(sample.metadata.name, "image/jpeg", sample.data, "still")
        if sample.metadata.kind == "photo"
        else File(sample.metadata.name, "video/mp4", sample.data, "clip")
        for sample in draw_scenes(scenes, drawing_workers())
    ]
    found += [
        File(name, "application/octet-stream", data, "hostile", error.status)
        for name, (data, error) in hostile_files().items()
    ]
    return found
