"""Join the real clips to one drive, and compare its segments with labels of frames: `python -m benchmarks.real_drive`.

The clips are eight dashcam recordings of streets with works, of as many cities; as chapters of one recording they are a
drive that leaves the works only for moments. A gap between segments is false if no frame in it is labelled `none` or
`unclear`, and no end of a stretch without works (none_stretches.csv), each of less than a second, lies in it.
"""

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import av

from benchmarks.environment import Environment
from roadwork_serve.atomic_write import write_json

OUT = Path("benchmarks/results/real-drive.json")
CLIPS = Path("../shared/data/photos/clips")


@dataclass(frozen=True, slots=True)
class Label:
    """The label of a frame, or of the begin and end of a stretch, on the clock of the drive."""

    clip: str
    at_s: float
    label: str


def compare(segments: Sequence[tuple[float, float]], labels: Sequence[Label]) -> dict[str, object]:
    """Return the gaps between segments, and how frames of each label lie to the segments."""
    gaps = []
    for (_, begin_s), (end_s, _) in pairwise(sorted(segments)):
        within = [each for each in labels if begin_s < each.at_s < end_s]
        false = not any(each.label in ("none", "unclear") for each in within)
        missed = [f"{each.clip} {each.at_s:.2f} s" for each in within if each.label == "roadwork"]
        gaps.append({"begin_s": begin_s, "end_s": end_s, "false": false, "roadwork_frames": missed})
    inside = [(each, any(begin <= each.at_s <= end for begin, end in segments)) for each in labels]
    frames = {
        label: {"frames": sum(each.label == label for each in labels),
                "in_segments": sum(each.label == label and within for each, within in inside)}
        for label in ("roadwork", "none", "unclear")
    }  # fmt: skip
    return {"segments": [list(each) for each in sorted(segments)], "gaps": gaps, "labels": frames}


def read_labels(folder: Path, names: Sequence[str]) -> list[Label]:
    """Return the labels of frames, and both ends of the stretches without works, in the order of the drive."""
    start_s, rates, at_s = dict[str, float](), dict[str, float](), 0.0
    for name in names:
        with av.open(folder / name) as clip:
            stream = clip.streams.video[0]
            start_s[name], rates[name] = at_s, float(stream.average_rate or 30)
            at_s += float((stream.duration or 0) * (stream.time_base or 0))
    found = []
    with (folder / "frame_labels.csv").open() as file:
        for row in csv.DictReader(file):
            name = Path(row["clip"]).name
            found.append(Label(name, start_s[name] + float(row["seconds"]), row["label"]))
    with (folder / "none_stretches.csv").open() as file:
        for row in csv.DictReader(file):
            name = Path(row["clip"]).name
            ends = (int(row["first_frame"]), int(row["last_frame"]))
            found += [Label(name, start_s[name] + frame / rates[name], "none") for frame in ends]
    return sorted(found, key=lambda each: each.at_s)


def main() -> None:
    """Run the command, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.real_drive", *sys.argv[1:]]))
    names = sorted(each.name for each in args.clips.glob("*.mp4"))
    roadwork = Path(sys.executable).with_name("roadwork")
    with tempfile.TemporaryDirectory(prefix="drive-") as work:
        card, out = Path(work) / "card", Path(work) / "map"
        card.mkdir()
        for number, name in enumerate(names, 1):
            shutil.copy(args.clips / name, card / f"GX{number:02}0001.MP4")
        command = [str(roadwork), "drive", str(card), "--out", str(out), "--profile", args.profile]
        subprocess.run(command, check=True)
        with (out / "segments.csv").open() as file:
            segments = [(float(row["begin_s"]), float(row["end_s"])) for row in csv.DictReader(file)]
    result = compare(segments, read_labels(args.clips, names)) | {"clips": names, "profile": args.profile}
    write_json(args.out, {"environment": asdict(environment)} | result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
