"""The tables of the soak, of the attacks, and of drives and cameras."""

from pathlib import Path

from benchmarks.markdown import Result, read, table

_LARGE_MIB = 50  # smaller roles share one row


def soak(results: Path) -> str:
    """Return what the processes of the server held in the first, the middle and the last tenth of the soak."""
    result = read(results, "soak")
    units = {"memory_mib": "memory of all processes, MiB", "descriptors": "descriptors", "threads": "threads"}
    lines = [[name, *_course(result["tree"][what])] for what, name in units.items()]
    roles: dict[str, Result] = result["memory_mib"]
    large = {name: each for name, each in roles.items() if max(each.values()) >= _LARGE_MIB}
    for name, each in sorted(large.items(), key=lambda entry: -entry[1]["end"]):
        lines.append([f"memory of {name}, MiB", *_course(each)])
    return table(["", "first tenth", "middle", "last tenth", "growth from the middle"], lines)


def attacks(results: Path) -> str:
    """Return the figures of each attack, before and after the protections."""
    if not (results / "attacks.json").exists():
        return "Nothing has been recorded yet.\n"
    lines: list[list[str]] = []
    for attack in read(results, "attacks")["attacks"]:
        for figure in attack["figures"]:
            lines.append([attack["name"], figure["name"], figure["before"] or "not measured", figure["after"]])
    return table(["attack", "", "before", "now"], lines)


def drive(results: Path) -> str:
    """Return what `roadwork drive` found on the rendered drives, and how fast."""
    result = read(results, "drive")
    rows = {
        "recordings, minutes": f"{result['seconds'] / 60:.1f}",
        "zones": f"{result['zones']}",
        "zones: recall, precision": f"{result['recall']:.3f}, {result['precision']:.3f}",
        "zones whose status is right": f"{result['status_right']:.0%}",
        "segments: median error of begin, end": f"{result['begin_error_s']:.1f} s, {result['end_error_s']:.1f} s",
        "segments: median intersection over union": f"{result['temporal_iou']:.2f}",
        "zones: median error of the place": f"{result['place_error_m']:.1f} m",
        "speed, with the restart": f"{result['speed']:.1f} x real time",
        "memory of the command beside the server, at most": f"{result['memory_mib']:.0f} MiB",
        "scores that are there twice": f"{result['repeated_scores']}",
    }
    return table(["", ""], [[name, value] for name, value in rows.items()])


def watch(results: Path) -> str:
    """Return what `roadwork watch` found in front of the disturbed cameras."""
    result = read(results, "watch")
    cameras = [result["stream"], result["folder"]]
    rows = {
        "times with road work": [f"{each['times']}" for each in cameras],
        "with one event that begins and ends": [f"{each['found']}" for each in cameras],
        "events beside these": [f"{each['repeated']}" for each in cameras],
        "from a change to its event: median, most": [
            f"{each['delay_median_s']:.1f} s, {each['delay_most_s']:.1f} s" for each in cameras
        ],
        "from a picture to its verdict: mean, most": [
            f"{each['age_mean_s']:.2f} s, {each['age_most_s']:.2f} s" for each in cameras
        ],
        "memory, middle third, last third": [
            f"{each['memory_middle_mib']:.0f}, {each['memory_end_mib']:.0f} MiB" for each in cameras
        ],
    }
    return table(["", "stream", "folder"], [[name, *values] for name, values in rows.items()])


def _course(each: Result) -> list[str]:
    growth = each["end"] / each["middle"] - 1 if each["middle"] else 0.0
    return [*(f"{each[part]:.0f}" for part in ("start", "middle", "end")), f"{growth:+.1%}"]
