"""The tables of the soak and of the attacks."""

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


def _course(each: Result) -> list[str]:
    growth = each["end"] / each["middle"] - 1 if each["middle"] else 0.0
    return [*(f"{each[part]:.0f}" for part in ("start", "middle", "end")), f"{growth:+.1%}"]
