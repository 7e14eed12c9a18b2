"""`roadwork retrain`: one retraining cycle on a journal, and deployment of its policy with --promote."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import LOCAL_SERVER, Confidence, JournalUrl, MinGain, RiskLimit, ServerUrl, open_journal
from roadwork_serve.terminal import echo


def retrain(
    journal: JournalUrl = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Active policy, by name or path. By default the one that the server reports."),
    ] = None,
    server: ServerUrl = LOCAL_SERVER,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; each run makes a folder of its own in it. By default `heads` in the state "
            "folder, from which a server loads the heads of policies.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, help="Use only the entries of the last N days. By default all.")
    ] = None,
    risk_limit: RiskLimit = 0.01,
    confidence: Confidence = 0.95,
    margin: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Largest loss of accuracy, against the active policy, that still counts as no worse."
        ),
    ] = 0.01,
    min_gain: MinGain = 1.0,
    promote: Annotated[
        bool, typer.Option("--promote", help="Activate the new policy on the server if it is better.")
    ] = False,
) -> None:
    """Learn from the journal: train a head, calibrate, tune, and compare with the active policy.

    Without --promote nothing is activated. The exit code is 1 if the new policy is not better.
    """
    from roadwork_serve.calibration.comparison import PromotionCriteria
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cascade.rollout import Rollout
    from roadwork_serve.cli.policy import print_change
    from roadwork_serve.cli.server_client import server_client
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.retraining import RetrainingSettings
    from roadwork_serve.retraining import retrain as run_cycle
    from roadwork_serve.state_folder import make_private, state_folder

    out = out or make_private(state_folder()) / "heads"
    rollout = None if policy is None else Rollout(policy=load_policy(policy))
    if rollout is None:
        with server_client(server) as client:
            rollout = client.policy().rollout
    now = datetime.now(UTC)
    since_s = None if days is None else now.timestamp() - 86400 * days
    with closing(open_journal(journal)) as store:
        rows = list(store.find(Filter(since_s=since_s)))
    version = f"retrained-{now:%Y%m%d-%H%M%S}"
    settings = RetrainingSettings(
        risk_limit, confidence, criteria=PromotionCriteria(margin, confidence=confidence, min_gain=min_gain)
    )
    done = run_cycle(rows, rollout.policy, out / version, version, settings)
    echo(
        f"{len(rows):,} journal entries: {done.trained_on:,} trained the head, {done.tested_on:,} tested the policy. "
        f"{'Better' if done.promoted else 'Not better'}: {done.reason}."
    )
    echo(f"Written to {done.folder}.")
    if not done.promoted:
        raise typer.Exit(1)
    if promote:
        with server_client(server) as client:  # the audit goes on, since the next cycle needs its results
            print_change(client.put_policy(Rollout(policy=done.policy, audit=rollout.audit)))
    else:
        echo(f"Activate it with `roadwork policy put {done.folder / 'policy.yaml'}`.")
