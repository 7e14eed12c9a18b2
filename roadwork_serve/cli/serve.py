"""`roadwork serve`: replaces this process with `deployments.serve_program`, because the library does not import Ray."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import StateFolder
from roadwork_serve.ray_environment import ray_environment
from roadwork_serve.terminal import echo

_PROJECT = Path(__file__).parents[2]


def serve(
    profile: Annotated[
        str | None,
        typer.Option(help="Profile to run: a name or a path. By default the one in the configuration."),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Ray Serve configuration to run instead of serve_config.yaml.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Use HAProxy and gRPC between replicas, for throughput. A warning names the consequences."
        ),
    ] = False,
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
    state: StateFolder = None,
) -> None:
    """Run the server until Ctrl-C.

    RAY_* variables that are already set keep their values.
    """
    import os
    import tempfile

    import yaml

    from roadwork_serve.api.api_keys import FILE_VARIABLE
    from roadwork_serve.errors import ConfigError
    from roadwork_serve.state_folder import VARIABLE, make_private, state_folder

    config = _project_file("serve_config.yaml") if config_file is None else config_file.resolve()
    if not config.is_file():
        raise ConfigError(f"{config} is not there; give another --config")
    in_checkout = (_PROJECT / "serve_config.yaml").is_file()  # a wheel has no project around it
    home = _PROJECT if in_checkout else Path.cwd()
    # An absolute path, before the folder changes; the token for Ray lies in it.
    own = make_private(state_folder() if state is None else state.absolute())
    os.environ[VARIABLE] = str(own)
    if profile is not None or host is not None or port is not None:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        if profile is not None:
            if profile.endswith((".yaml", ".yml")) or "/" in profile:
                profile = str(Path(profile).resolve())
            settings["applications"][0].setdefault("args", {})["profile"] = profile
        chosen = {"host": host, "port": port}
        settings["http_options"] = (settings.get("http_options") or {}) | {
            name: value for name, value in chosen.items() if value is not None
        }
        config = own / "serve_config.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    environment = ray_environment() | {"RAY_SERVE_LOG_TO_STDERR": "0"}  # replicas log to Ray's folder only
    if fast:
        from roadwork_serve.haproxy import WARNING, fast_environment

        folder = Path(tempfile.mkdtemp(prefix="rw-"))
        environment |= fast_environment(folder, _project_file("ops/haproxy/haproxy.sh"))
        echo(WARNING, color="yellow", err=True)
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
