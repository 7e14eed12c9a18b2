"""All checks of `roadwork doctor`, in order."""

from pathlib import Path

from roadwork_serve.doctor import machine, software
from roadwork_serve.doctor.finding import Finding
from roadwork_serve.doctor.profile_check import what_would_run
from roadwork_serve.profiles.nvml import read_nvml
from roadwork_serve.running_server import running_server


def examine(state: Path, profile: str, host: str, port: int) -> list[Finding]:
    """Return all findings.

    Args:
        state: The state folder.
        profile: A profile, or auto.
        host: Address that a server would listen on.
        port: Its port.

    Raises:
        ConfigError: There is no such profile.
    """
    reading, server = read_nvml(), running_server(state)
    return [
        software.python(),
        software.operating_system(),
        *software.packages(),
        *machine.cores_and_memory(),
        *machine.gpus(reading),
        machine.port(host, port, server),
        *machine.folders(state),
        *what_would_run(profile, reading, serving=server is not None),
    ]
