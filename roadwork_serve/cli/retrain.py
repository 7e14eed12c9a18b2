"""`roadwork retrain`: a turn of the wheel against a journal, and the policy of a running server where it is passed."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import Url, opened
from roadwork_serve.cli.policy import HERE


def retrain(
    journal: Url = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy in force, by name or path; by default the server is asked.")
    ] = None,
    url: Annotated[str, typer.Option(help="The server; its key is taken from ROADWORK_API_KEY.")] = HERE,
    out: Annotated[Path, typer.Option(help="Folder for what comes of it, one each time.")] = Path("build/retrained"),
    days: Annotated[
        float | None, typer.Option(min=0.001, help="Learn from the last so many days; from all by default.")
    ] = None,
    risk_limit: Annotated[float, typer.Option(help="Share of the traffic that exits may spoil, at most.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="That the bound holds.")] = 0.95,
    margin: Annotated[
        float, typer.Option(help="Accuracy that the new policy may lose against the old, at most.")
    ] = 0.01,
    promote: Annotated[
        bool, typer.Option("--promote", help="Bring it into force where it is better; else it is only written.")
    ] = False,
) -> None:
    """Train a head on the journal, calibrate, tune, compare with the policy in force. Exit code 1 if that one stays."""
    from roadwork_serve.calibration.comparison import PromotionCriteria
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cascade.rollout import Rollout
    from roadwork_serve.cli.policy import asked, tell
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.retraining import RetrainingSettings
    from roadwork_serve.retraining import retrain as turned

    rules = Rollout(load_policy(policy)) if policy is not None else None
    if rules is None:
        rules = Rollout.from_mapping(asked(url, "GET", "/v1/policy")["rules"])
    now = datetime.now(UTC)
    since_s = None if days is None else now.timestamp() - 86400 * days
    with closing(opened(journal)) as store:
        cases = list(store.find(Filter(since_s=since_s)))
    version = f"retrained-{now:%Y%m%d-%H%M%S}"
    settings = RetrainingSettings(
        risk_limit, confidence, margins=PromotionCriteria(accuracy=margin, confidence=confidence)
    )
    done = turned(cases, rules.policy, out / version, version, settings)
    typer.echo(
        f"{len(cases):,} answers: the head learned from {done.learned:,}, {done.tested:,} tested the policy. "
        f"{'Better' if done.promoted else 'Not better'}: {done.why}."
    )
    typer.echo(f"Written to {done.folder}.")
    if not done.promoted:
        raise typer.Exit(1)
    if promote:
        new = {"policy": done.policy.to_mapping()}
        if rules.audit is not None:  # the next turn lives on it
            new["audit"] = {"share": rules.audit.share, "max_concurrent": rules.audit.max_concurrent}
        tell(asked(url, "PUT", "/v1/policy", new))
    else:
        typer.echo(f"`roadwork policy put {done.folder / 'policy.yaml'}` brings it into force.")
