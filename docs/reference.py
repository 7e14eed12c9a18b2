"""The pages that MkDocs makes of the code: commands, settings, and what the server says of its routes."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.journal_routes import journal_routes
from roadwork_serve.api.policy_routes import policy_routes
from roadwork_serve.cli.main import app
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile

_RESULTS = Path(__file__).parents[1] / "benchmarks/results"
_SETTINGS = """# Settings

Every field of a profile (`roadwork_serve/profiles/*.yaml`); `overrides` in the `args` of `serve_config.yaml` replaces
any of them, and `null` takes one away. A field that is not known, or makes no sense, stops the start with its name.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, content in (("cli.md", commands()), ("settings.md", settings()), ("openapi.json", openapi())):
        files.append(File.generated(config, name, content=content))
    for picture in sorted(_RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Find pictures of results where `on_files` has put them: pages name them where they lie in the repository."""
    return markdown.replace("](../benchmarks/results/", "](results/")


def commands() -> str:
    """What --help says, of every command."""
    command = typer.main.get_command(app)
    context = command.make_context("roadwork", [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name="roadwork", title="Commands")


def settings() -> str:
    """The profile's fields, a table for each of its parts."""
    return _SETTINGS + "\n".join(_tables(Profile, "Profile", set()))


def openapi() -> str:
    """The server's own description of its routes, for one with keys."""
    guard = Authenticator.from_environment(1, {"ROADWORK_KEYS": "[]"})
    nobody = cast(Any, SimpleNamespace(profile=load_profile("mini")))  # routes are described, none is asked
    served = http_app(nobody, guard)
    for routes in (*policy_routes(nobody, guard), journal_routes(nobody, guard)):
        served.include_router(routes)
    return json.dumps(served.openapi())


def _tables(model: type[BaseModel], title: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    seen.add(model)
    yield f"\n## {title}\n\n{(model.__doc__ or '').strip()}\n\n| field | is | by default | |\n|---|---|---|---|"
    parts: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = [each for each in _models(field.annotation) if each not in seen]
        parts += [(f"{name}: {each.__name__}", each) for each in inner]
        yield f"| `{name}` | {_kind(field)} | {_default(field)} | {field.description or ''} |"
    for named, each in parts:
        if each not in seen:
            yield from _tables(each, named, seen)


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for each in get_args(kind):
        yield from _models(each)


def _kind(field: FieldInfo) -> str:
    told = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    for module in (
        "typing.",
        "collections.abc.",
        "roadwork_serve.profiles.profile.",
        "roadwork_serve.profiles.journal.",
    ):
        told = told.replace(module, "")
    return f"`{told}`".replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or isinstance(value, BaseModel) else f"`{value}`"
