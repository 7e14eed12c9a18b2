"""`roadwork policy`: the policy of a running server. Each command imports what it needs when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import LOCAL_SERVER, PrintJson, ServerUrl
from roadwork_serve.printable import printable
from roadwork_serve.terminal import console, echo, echo_json, foreign

if TYPE_CHECKING:
    from roadwork_serve.schema import PolicyChange

policy = typer.Typer(no_args_is_help=True, help="Show, replace or roll back the policy of a running server.")


@policy.command()
def show(server: ServerUrl = LOCAL_SERVER, as_json: PrintJson = False) -> None:
    """Show the active policy and the history of revisions."""
    from rich.table import Table

    from roadwork_serve.cli.server_client import server_client

    with server_client(server) as client:
        state = client.policy()
    if as_json:
        echo_json(state.model_dump_json(indent=2, exclude_none=True))
        return
    table = Table("revision", "version", "author", "change", "created at")
    for each in state.history:
        change = f"rollback to {each.rollback_of}" if each.rollback_of else each.origin
        table.add_row(str(each.revision), *map(foreign, (each.version, each.author, change, each.created_at)))
    console().print(f"Active policy: {foreign(state.version)} (revision {state.revision})", table)


@policy.command()
def put(
    source: Annotated[
        str,
        typer.Argument(help="File with a policy or a rollout, or the name of a policy that ships with the project."),
    ],
    server: ServerUrl = LOCAL_SERVER,
) -> None:
    """Check a policy and activate it on every replica at once.

    A file may also hold a rollout: a policy with a split, a shadow or an audit. With a policy alone, audits go on as
    they are.
    """
    import yaml

    from roadwork_serve.cascade.policy_file import load_rollout
    from roadwork_serve.cascade.rollout import Rollout
    from roadwork_serve.cli.server_client import server_client
    from roadwork_serve.errors import ConfigError

    path, config = Path(source), None
    if path.is_file():
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML; correct it: {' '.join(str(error).split())}") from None
    if isinstance(config, dict) and "version" not in config:
        rollout, alone = load_rollout(config, ""), False
    else:
        rollout, alone = load_rollout({"policy": source if config is None else config}, ""), True
    with server_client(server) as client:
        if alone:
            rollout = Rollout(policy=rollout.policy, audit=client.policy().rollout.audit)
        print_change(client.put_policy(rollout))


@policy.command()
def audit(
    share: Annotated[float, typer.Argument(min=0, max=1, help="Share of the items; 1 is all of them, 0 ends audits.")],
    server: ServerUrl = LOCAL_SERVER,
) -> None:
    """Set the share of the items that every stage sees after their response; the policy stays.

    `roadwork retrain` learns from these items.
    """
    from roadwork_serve.cascade.rollout import Audit
    from roadwork_serve.cli.server_client import server_client

    with server_client(server) as client:
        active = client.policy().rollout
        audits = (active.audit or Audit(share=1)).model_copy(update={"share": share}) if share else None
        print_change(client.put_policy(active.model_copy(update={"audit": audits})))


@policy.command()
def rollback(server: ServerUrl = LOCAL_SERVER) -> None:
    """Activate the previous policy again."""
    from roadwork_serve.cli.server_client import server_client

    with server_client(server) as client:
        print_change(client.rollback_policy())


def print_change(change: "PolicyChange") -> None:
    """Print the revision that has become active."""
    echo(
        f"{printable(change.version)} is active: revision {change.revision}, on {change.replicas} ingress replicas "
        "so far."
    )
