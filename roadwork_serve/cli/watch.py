"""`roadwork watch`: events of road work in front of a camera."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import PolicyName, ProfileName
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.terminal import echo

if TYPE_CHECKING:
    from roadwork_serve.streams.camera import Camera
    from roadwork_serve.streams.events import Event


def watch(
    camera: Annotated[
        str,
        typer.Argument(
            help="URL of a stream (http, https: MPEG-TS, MJPEG, FLV, MP4 in fragments, Matroska; rtsp, rtsps), or a "
            "folder into which photos or short clips are put.",
            metavar="URL|FOLDER",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to which events are appended. With it a restart continues. By default only stdout."),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="URL to which each event is posted as JSON, until it is accepted. Requires --out."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="URL of a running server to use. Without it, this process loads the models of --profile. The API key "
            "is read from ROADWORK_API_KEY.",
            metavar="URL",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds from one picture to the next, at least.")
    ] = 0.5,
    begin: Annotated[float, typer.Option(min=0, max=1, help="Smoothed probability at which road work begins.")] = 0.8,
    end: Annotated[float, typer.Option(min=0, max=1, help="Smoothed probability at which it has ended.")] = 0.2,
    ongoing: Annotated[float, typer.Option(min=1, help="Seconds from one `ongoing` event to the next.")] = 60.0,
    profile: ProfileName = "cpu",
    policy: PolicyName = None,
) -> None:
    """Print an event when road work begins, goes on and ends in front of a camera: JSON, one line each.

    The newest picture is judged; those between are left out. It goes on after the camera or the server was away. Stop
    it with Ctrl-C.
    """
    import asyncio
    from contextlib import ExitStack, suppress

    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.classify import from_server, in_process
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.streams.camera import camera_address
    from roadwork_serve.streams.event_log import EventLog, check_webhook, deliver
    from roadwork_serve.streams.events import EventDetector
    from roadwork_serve.streams.folder_camera import FolderCamera
    from roadwork_serve.streams.stream_camera import StreamCamera
    from roadwork_serve.streams.watch import Watch, WatchCounts

    if webhook is not None and out is None:
        raise ConfigError("--webhook requires --out, the file that keeps the events until they are accepted")
    if webhook is not None:
        check_webhook(webhook)
    address = camera_address(camera)
    chosen = load_profile(profile)
    opening = in_process(chosen, load_policy(policy or chosen.policy)) if server is None else from_server(server)
    detector = EventDetector(address.name, begin, end, ongoing)
    folder = FolderCamera(address.folder, chosen.media) if address.folder is not None else None

    def opened() -> "Camera":
        return folder or StreamCamera(address.url or "", address.name, chosen.media)

    def say(text: str) -> None:
        echo(text, err=True)

    counts = WatchCounts()
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        log = stack.enter_context(EventLog(out)) if out is not None else None
        if log is not None and (last := log.last()) is not None:
            detector.resume(last)

        def emit(event: "Event") -> None:
            if log is not None:
                log.append(event)
            echo(event.model_dump_json())

        async def run() -> None:
            async with opening as classify, asyncio.TaskGroup() as tasks:
                if webhook is not None and log is not None:
                    tasks.create_task(deliver(log, webhook, say))
                say(f"Watching {address.name}")
                tasks.create_task(Watch(opened, classify, detector, emit, say, every, counts).run())

        stack.callback(lambda: say(str(counts)))
        try:
            asyncio.run(run())
        except BaseExceptionGroup as group:
            known = group.subgroup(RoadworkError)
            raise known.exceptions[0] if known else group from None
