"""`roadwork policy`: the policy of a running server. Each command imports what it needs when it runs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from roadwork_serve.errors import RoadworkError

KEY_VARIABLE = "ROADWORK_API_KEY"

policy = typer.Typer(no_args_is_help=True, help="The policy of a running server: show, put, roll back.")

Url = Annotated[str, typer.Option(help=f"The server; its key is taken from {KEY_VARIABLE}.")]
HERE = "http://127.0.0.1:8000"


def authorisation(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header with the key that the environment holds, if it does."""
    key = environment.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


@policy.command()
def show(
    url: Url = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it, the rules too, as JSON.")] = False,
) -> None:
    """Say what is in force, and what was before."""
    from rich.console import Console
    from rich.table import Table

    state = asked(url, "GET", "/v1/policy")
    if as_json:
        typer.echo(json.dumps(state, indent=2))
        return
    table = Table("edition", "version", "by", "how", "at")
    for each in state["history"]:
        how = f"rollback to {each['restores']}" if each["restores"] else each["origin"]
        table.add_row(str(each["number"]), each["version"], each["by"], how, each["at"])
    Console().print(f"In force: {state['version']} (edition {state['number']})", table)


@policy.command()
def put(
    source: Annotated[str, typer.Argument(help="A file, or the name of a policy that ships with the project.")],
    url: Url = HERE,
) -> None:
    """Check a policy, or rules with a split and a shadow, and bring it into force on every replica at once."""
    import yaml

    from roadwork_serve.cascade.policy_file import load_rollout
    from roadwork_serve.errors import ConfigError

    path, config = Path(source), None
    if path.is_file():
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML; mend it: {' '.join(str(error).split())}") from None
    if isinstance(config, dict) and "version" not in config:
        rules = load_rollout(config, "")
    else:
        rules = load_rollout({"policy": source if config is None else config}, "")
    tell(asked(url, "PUT", "/v1/policy", rules.to_mapping()))


@policy.command()
def rollback(url: Url = HERE) -> None:
    """Bring back the policy that was in force before."""
    tell(asked(url, "POST", "/v1/policy/rollback"))


def tell(change: dict[str, Any]) -> None:
    """Say what has come into force."""
    typer.echo(
        f"{change['version']} is in force: edition {change['number']}, on {change['replicas']} ingress replicas."
    )


def asked(url: str, method: str, path: str, body: object = None) -> dict[str, Any]:
    """What the server answers. Raises RoadworkError with its problem, or why there is no answer."""
    import httpx

    try:
        reply = httpx.request(
            method, url.rstrip("/") + path, json=body, headers=authorisation(), timeout=30, follow_redirects=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        told = f"{url}: {str(error) or type(error).__name__}; is `roadwork serve` running there?"
        raise _titled("The server cannot be reached", told) from None
    try:
        answer = reply.json()
    except ValueError:
        told = f"{url} answered {reply.status_code}, and no JSON; is it a roadwork server?"
        raise _titled("The server does not speak this protocol", told) from None
    if reply.is_success:
        return answer
    raise _titled(str(answer.get("title")), str(answer.get("detail")))


def _titled(title: str, told: str) -> RoadworkError:
    error = RoadworkError(told)
    error.title = title
    return error
