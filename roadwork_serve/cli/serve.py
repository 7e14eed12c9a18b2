"""`roadwork serve`: replaces this process with `deployments.serve_program`, because the library does not import Ray."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from roadwork_serve.cli.options import StateFolder

_PROJECT = Path(__file__).parents[2]


def serve(
    profile: Annotated[
        str | None,
        typer.Option(help="Profile to run: a name or a path. By default the one in the configuration."),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Ray Serve configuration to run instead of serve_config.yaml.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on. By default the one in the configuration, which is loopback only."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on, likewise.")] = None,
    open_console: Annotated[
        bool, typer.Option("--open", help="Open the console in the browser once the server is ready.")
    ] = False,
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard/--no-dashboard",
            help="Run Ray's dashboard, which `serve deploy` and `serve status` also use. It takes memory.",
        ),
    ] = True,
    haproxy: Annotated[
        bool,
        typer.Option(
            "--haproxy/--no-haproxy",
            help="Put HAProxy in front where it is installed: on Linux. Without it Ray Serve's proxy answers, "
            "with about half the throughput.",
        ),
    ] = True,
    state: StateFolder = None,
) -> None:
    """Run the server until Ctrl-C.

    RAY_* variables that are already set keep their values.
    """
    import os

    import yaml

    from roadwork_serve.api.api_keys import FILE_VARIABLE
    from roadwork_serve.errors import ConfigError
    from roadwork_serve.haproxy import HOSTS, NO_HAPROXY, haproxy_environment
    from roadwork_serve.ray_environment import named_cluster, ray_environment
    from roadwork_serve.state_folder import VARIABLE, make_private, state_folder

    config = _project_file("serve_config.yaml") if config_file is None else config_file.resolve()
    if not config.is_file():
        raise ConfigError(f"{config} is not there; give another --config")
    in_checkout = (_PROJECT / "serve_config.yaml").is_file()  # a wheel has no project around it
    home = _PROJECT if in_checkout else Path.cwd()
    # An absolute path, before the folder changes; the token for Ray lies in it.
    own = make_private(state_folder() if state is None else state.absolute())
    os.environ[VARIABLE] = str(own)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not settings.get("applications"):
        raise ConfigError(f"{config} names no applications: it is no configuration of Ray Serve; give another --config")
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 8000} | (settings.get("http_options") or {})
    options |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if profile is not None:
        if profile.endswith((".yaml", ".yml")) or "/" in profile:
            profile = str(Path(profile).resolve())
        settings["applications"][0].setdefault("args", {})["profile"] = profile
    if profile is not None or options != settings.get("http_options"):
        config = own / "serve_config.yaml"
        config.write_text(yaml.safe_dump(settings | {"http_options": options}, sort_keys=False), encoding="utf-8")
    environment = ray_environment() | {"RAY_SERVE_LOG_TO_STDERR": "0"}  # replicas log to Ray's folder only
    if not haproxy or os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "0" or options["host"] not in HOSTS:
        os.environ.update(NO_HAPROXY)
    elif named_cluster(os.environ) is None:  # the nodes of a cluster have started their Ray already
        folder = Path(os.environ.get("RAY_TMPDIR") or environment["RAY_TMPDIR"]) / f"h{options['port']}"
        environment |= haproxy_environment(folder, _project_file("ops/haproxy/haproxy.sh"))
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if keys := os.environ.get(FILE_VARIABLE):
        os.environ[FILE_VARIABLE] = str(Path(keys).resolve())
    os.chdir(home)
    flags = [*(["--open"] if open_console else []), *([] if dashboard else ["--no-dashboard"])]
    program = [sys.executable, "-m", "deployments.serve_program", str(config), *flags]
    os.execv(sys.executable, program)  # noqa: S606 - no shell


def _project_file(path: str) -> Path:
    """Return the path of a project file; in an installed wheel, of the copy that the wheel carries."""
    found = _PROJECT / path
    return found if found.is_file() else Path(__file__).parents[1] / found.name
