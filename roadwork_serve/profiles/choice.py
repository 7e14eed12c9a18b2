"""The profile `auto`, which is the first that fits the GPUs, or else `cpu`; and what a named profile lacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.nvml import NvmlReading
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.requirements import missing_requirements

GPU_PROFILES = ("gpu-80gb", "gpu-2x24gb", "gpu-24gb")  # in order of preference

Check = Callable[[Profile], None]
Requires = Callable[[Profile, NvmlReading | None], list[str]]


@dataclass(frozen=True, slots=True)
class ClusterGpus:
    """The memory in GiB of the GPUs of each node, by their index; 0 for one that Ray may not use."""

    nodes: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of_machine(cls, reading: NvmlReading | None) -> "ClusterGpus":
        """Return the GPUs of this machine with the memory that is free."""
        return cls(() if reading is None else (tuple(gpu.free_gib if gpu.visible else 0.0 for gpu in reading.gpus),))

    @property
    def gib(self) -> tuple[float, ...]:
        """The memory of every GPU that Ray may use."""
        return tuple(gib for node in self.nodes for gib in node if gib)

    @property
    def by_index(self) -> tuple[float, ...]:
        """The memory of the GPU of each index: of several nodes, the smallest, because Ray chooses the node."""
        most = max(map(len, self.nodes), default=0)
        return tuple(min(node[index] for node in self.nodes if index < len(node)) for index in range(most))

    def of(self, profile: Profile) -> tuple[float, ...]:
        """Return the sizes as `plan_placement` takes them for this profile."""
        return self.by_index if profile.names_gpus else self.gib


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """A profile, and the reason why it was chosen."""

    profile: Profile
    #: A sentence.
    reason: str
    #: True if GPUs stay idle; the reason has the remedy.
    idle_gpus: bool = False


def choose_profile(
    gpus: ClusterGpus,
    reading: NvmlReading | None,
    overrides: Mapping[str, Any],
    check: Check = lambda profile: None,
    requires: Requires | None = None,
) -> ProfileChoice:
    """Return the first of GPU_PROFILES that fits the GPUs, else cpu.

    Args:
        gpus: The GPUs.
        reading: The reading of this machine's driver.
        overrides: Fields of the profile to override.
        check: Raises ConfigError for a profile that cannot run for another reason than memory.
        requires: Returns the requirements of a profile that this machine does not meet; by default
            `missing_requirements`.

    Raises:
        ConfigError: The overrides are invalid.
    """
    if not gpus.gib:
        return ProfileChoice(load_profile("cpu", overrides), "Profile auto chose cpu: there is no GPU.")
    rejected: list[str] = []
    for name in GPU_PROFILES:
        profile = load_profile(name, overrides)
        if missing := (requires or missing_requirements)(profile, reading):
            reason = f"Profile auto chose cpu, and the GPUs stay idle: {'; '.join(missing)}. Then start again."
            return ProfileChoice(load_profile("cpu", overrides), reason, idle_gpus=True)
        try:
            placed = fitting(profile, gpus, check)
        except ConfigError as error:
            rejected.append(f"{name}: {error}")
        else:
            return ProfileChoice(placed, f"Profile auto chose {name}{_named(placed)}.")
    free = ", ".join(f"{gib:g}" for gib in gpus.gib)
    reason = (
        f"Profile auto chose cpu, and the GPUs stay idle: no other fits GPUs with {free} GiB free. Free some memory, "
        f"or name a profile that fits. {'; '.join(rejected)}."
    )
    return ProfileChoice(load_profile("cpu", overrides), reason, idle_gpus=True)


def fitting(profile: Profile, gpus: ClusterGpus, check: Check) -> Profile:
    """Return the profile as it fits the GPUs. Where they differ, it may name other GPUs, or one GPU for all engines.

    Raises:
        ConfigError: It does not fit. The message is about the profile as it is.
    """
    try:
        plan_placement(profile, gpus.of(profile))
        check(profile)
        return profile
    except ConfigError:
        for other in _on_other_gpus(profile, gpus.by_index):
            try:
                plan_placement(other, gpus.by_index)
                check(other)
                return other
            except ConfigError:
                continue
        raise


def shortfall(profile: Profile, gpus: ClusterGpus) -> str | None:
    """Return why a profile does not fit the GPUs as it is, and on which of them it would; None if it fits."""
    if not any(profile.engines[name].device == "cuda" for name in profile.users()):
        return None
    try:
        plan_placement(profile, gpus.of(profile))
        return None
    except ConfigError as error:
        reason = str(error)
    try:
        fits = fitting(profile, gpus, lambda profile: None)
    except ConfigError:
        return reason
    named = {name: gpu for name in fits.users() if (gpu := fits.engines[name].gpu) is not None}
    settings = " and ".join(f"engines.{name}.gpu to {gpu}" for name, gpu in named.items())
    return f"{reason}; or set {settings}, where it fits, as profile auto does"


def _on_other_gpus(profile: Profile, gib: Sequence[float]) -> Iterator[Profile]:
    """Yield the profile on other GPUs: in the places of those it names, or with all engines on one, largest first."""
    on_gpu = {name: profile.engines[name].gpu for name in profile.users() if profile.engines[name].device == "cuda"}
    indices = sorted(range(len(gib)), key=lambda index: -gib[index])
    if profile.names_gpus:
        places = sorted({gpu for gpu in on_gpu.values() if gpu is not None})
        for chosen in permutations(indices, len(places)):
            other = dict(zip(places, chosen, strict=True))
            yield profile.with_gpus({name: other[gpu] for name, gpu in on_gpu.items() if gpu is not None})
    elif len(indices) > 1:
        for index in indices:
            yield profile.with_gpus(dict.fromkeys(on_gpu, index))


def _named(profile: Profile) -> str:
    """Return the GPUs that a profile names, for the log."""
    found: dict[int, list[str]] = {}
    for name in profile.users():
        if (gpu := profile.engines[name].gpu) is not None:
            found.setdefault(gpu, []).append(name)
    return "".join(f"; on GPU {gpu}: {', '.join(names)}" for gpu, names in sorted(found.items()))
