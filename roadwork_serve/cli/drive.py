"""`roadwork drive`: dashcam recordings become a map of work zones."""

from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import PolicyName, ProfileName
from roadwork_serve.errors import ConfigError
from roadwork_serve.progress import progress
from roadwork_serve.terminal import echo


def drive(
    sources: Annotated[
        list[Path], typer.Argument(help="Recordings and photos, or folders with some.", metavar="FILE|FOLDER...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to. With that of an interrupted run, the run continues.")],
    server: Annotated[
        str | None,
        typer.Option(
            help="URL of a running server to use. Without it, this process loads the models of --profile. The API key "
            "is read from ROADWORK_API_KEY.",
            metavar="URL",
        ),
    ] = None,
    track: Annotated[
        list[Path] | None,
        typer.Option(
            help="Track of the drive: GPX, NMEA or a drone's SRT; repeat for more. By default the one in the "
            "recording, or the file of the same name beside it."
        ),
    ] = None,
    clock_offset: Annotated[
        float | None,
        typer.Option(
            help="Seconds to add to the camera's clock to get the time of the track. By default estimated from the "
            "time zone and from stops."
        ),
    ] = None,
    exiftool: Annotated[
        bool,
        typer.Option(
            help="Ask ExifTool, where it is installed, for positions that nothing else has. It is not confined."
        ),
    ] = True,
    every: Annotated[float, typer.Option(min=0.1, max=10, help="Seconds from one frame to the next.")] = 0.5,
    tiles: Annotated[
        str | None,
        typer.Option(
            help="URL of map tiles with {z}, {x} and {y}, which the page then loads. Without it the map is a drawing "
            "of the track and nothing is loaded.",
            metavar="URL",
        ),
    ] = None,
    profile: ProfileName = "cpu",
    policy: PolicyName = None,
) -> None:
    """Make a list and a map of work zones from dashcam recordings of any length.

    Writes index.html, zones.geojson, and segments and zones as CSV and Parquet. Run the same command again to continue
    after an interruption.
    """
    import asyncio
    from functools import partial
    from importlib.util import find_spec

    if missing := [name for name in ("gpxpy", "pynmea2", "pyarrow") if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} not installed; pip install 'roadwork-serve[drives]'")

    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.classify import from_server, in_process
    from roadwork_serve.drives.assembly import Assembly, DriveMap
    from roadwork_serve.drives.map_page import tile_origin
    from roadwork_serve.drives.run import PAGE, DriveRun, DriveSpec, Progress, map_drives, other_track
    from roadwork_serve.drives.scoring import ScoringSettings
    from roadwork_serve.drives.sources import find_recordings
    from roadwork_serve.drives.track_files import read_track
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.provenance import package_version

    if tiles is not None:
        tile_origin(tiles)  # wrong ones are an error before the work, not after it
    recordings = find_recordings(sources)
    settings = ScoringSettings(step_s=every)
    tracks = [read_track(each) for each in track or []]
    others = partial(other_track, exiftool=exiftool and not tracks)
    assembly = Assembly(settings.model, tracks, clock_offset, others)
    chosen = load_profile(profile)
    if server is not None:
        opening, cascade = from_server(server), server
    else:
        followed = load_policy(policy or chosen.policy)
        opening, cascade = in_process(chosen, followed), f"profile {chosen.name}, policy {followed.version}"
    spec = DriveSpec(cascade=cascade, step_s=every, version=package_version("roadwork-serve"))
    with progress() as bar:
        task = bar.add_task("Loading models" if server is None else "Connecting", total=len(recordings))

        def show(state: Progress) -> None:
            description = f"File {state.file} of {state.files}, {state.speed:.1f} x real time"
            bar.update(task, description=description, completed=state.file - 1)

        run = DriveRun(out, spec, chosen.media, settings, show)
        with run.opened() as log:

            async def mapped() -> DriveMap:
                async with opening as classify:
                    return await map_drives(run, recordings, log, classify, assembly)

            found = asyncio.run(mapped())
            bar.update(task, description="Writing the map", completed=len(recordings))
            run.write(found, tiles)
    for note in found.notes:
        echo(f"Note: {note}", err=True)
    count = sum(len(each.segments) for each in found.drives)
    echo(f"Segments: {count}, zones: {len(found.zones)}. The map is {out / PAGE}")
    if not found.drives:
        raise typer.Exit(1)
