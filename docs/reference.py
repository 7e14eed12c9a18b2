"""Reference documentation that is generated from the code.

As a MkDocs hook it adds the pages for commands, settings and the HTTP API. `python docs/reference.py` writes the
generated blocks of the pages in docs/: the fields in glossary.md, the map of folders in architecture.md and the formats
in formats.md; `--check` only compares. A page marks a block with `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from roadwork_serve import schema, server_state
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.clip_formats import CLIP_CODECS, CLIP_FORMATS
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.still_formats import STILL_FORMATS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs/glossary.md", ROOT / "docs/architecture.md", ROOT / "docs/formats.md")
_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)
_RESULTS = ROOT / "benchmarks/results"
_SETTINGS = """# Settings

The fields of a profile (`roadwork_serve/profiles/*.yaml`). To change one, set it under `overrides` in the `args` of
`serve_config.yaml`; `null` removes an entry. An unknown field or an invalid value stops the start with a message that
names it.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, content in (("cli.md", commands()), ("settings.md", settings()), ("openapi.json", openapi())):
        files.append(File.generated(config, name, content=content))
    for picture in sorted(_RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to plots at the copies that `on_files` added; pages name them by their place in the repository."""
    return markdown.replace("](../benchmarks/results/", "](results/")


def commands() -> str:
    """Return the help of every command."""
    import typer
    from typer.cli import get_docs_for_click

    from roadwork_serve.cli.main import app

    command = typer.main.get_command(app)
    context = command.make_context("roadwork", [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name="roadwork", title="Commands")


def settings() -> str:
    """Return the settings page: a table for each part of a profile, with types and defaults."""
    parts = [_SETTINGS]
    for model in reachable([Profile]):
        rows = [
            (f"`{name}`", _kind(field), _default(field), field.description or "")
            for name, field in model.model_fields.items()
        ]
        title, about = model.__name__, (model.__doc__ or "").strip()
        parts.append(f"\n## {title}\n\n{about}\n\n{_table(('field', 'type', 'default', 'meaning'), rows)}")
    return "".join(parts)


def openapi() -> str:
    """Return the OpenAPI document of a server with API keys."""
    from roadwork_serve.api.auth import Authenticator
    from roadwork_serve.api.classify_routes import http_app
    from roadwork_serve.api.job_routes import job_routes
    from roadwork_serve.api.journal_routes import journal_routes
    from roadwork_serve.api.policy_routes import policy_routes

    guard = Authenticator.from_environment(1, {"ROADWORK_KEYS": "[]"})
    nobody = cast(
        Any, SimpleNamespace(profile=load_profile("mini"), status=None)
    )  # routes are described, none is called
    served = http_app(nobody, guard)
    own = (journal_routes(nobody, nobody, nobody, guard, nobody), job_routes(nobody, nobody.profile.jobs, guard))
    for routes in (*policy_routes(nobody, guard), *own):
        served.include_router(routes)
    return json.dumps(served.openapi())


def wire_models() -> list[type[BaseModel]]:
    """Return the models of the HTTP API."""
    found = (getattr(module, name) for module in (schema, server_state) for name in dir(module))
    models = {each.__name__: each for each in found if isinstance(each, type) and issubclass(each, schema.WireModel)}
    return [model for name, model in sorted(models.items()) if model is not schema.WireModel]


def policy_models() -> list[type[BaseModel]]:
    """Return the models of a policy file or rollout file."""
    return reachable([Rollout])


def profile_models() -> list[type[BaseModel]]:
    """Return the models of a profile."""
    return reachable([Profile])


def reachable(roots: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    """Return the models and those that their fields refer to, breadth first."""
    found = list(roots)
    for model in found:
        for field in model.model_fields.values():
            found += [each for each in dict.fromkeys(_models(field.annotation)) if each not in found]
    return found


def fields(models: Iterable[type[BaseModel]]) -> str:
    """Return a table of fields for each model."""
    parts: list[str] = []
    for model in models:
        about = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        rows = [(f"`{name}`", _kind(field), field.description or "") for name, field in model.model_fields.items()]
        parts.append(
            f"\n### {model.__name__}\n\n{re.sub(' +', ' ', about)}\n"
            + (f"\n{_table(('field', 'type', 'meaning'), rows)}" if rows else "")
        )
    return "".join(parts) + "\n"


def folders() -> str:
    """Return the map of folders: packages from the top layer down, each with the first line of its docstring."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = re.findall(r"\w+", " ".join(next(each["layers"] for each in contracts if each["type"] == "layers")))
    package = ROOT / "roadwork_serve"
    names = sorted(
        (path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()),
        key=lambda name: (layers.index(name) if name in layers else len(layers), name),
    )
    rows = [("`miner.py`", _about(ROOT / "miner.py")), ("`deployments/`", _about(ROOT / "deployments"))]
    for name in names:
        if name == "__init__":
            continue
        path = package / name if (package / name).is_dir() else package / f"{name}.py"
        rows.append((f"`{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}`", _about(path)))
        if name == "testbed":
            parts = sorted(each for each in path.iterdir() if (each / "__init__.py").is_file())
            rows += [(f"`{each.relative_to(ROOT)}/`", _about(each)) for each in parts]
    return _table(("path", "content"), rows)


def still_formats() -> str:
    """Return the table of photo formats."""
    rows = [(each.name, ", ".join(each.suffixes), each.codecs, each.read, each.limits) for each in STILL_FORMATS]
    return _table(("format", "suffixes", "coding", "what is read", "limits"), rows)


def clip_formats() -> str:
    """Return the table of clip formats."""
    rows = [(each.name, ", ".join(each.suffixes), ", ".join(each.codecs), each.marks) for each in CLIP_FORMATS]
    codecs = ", ".join(dict.fromkeys(CLIP_CODECS.values()))
    return _table(("format", "suffixes", "usual codecs", "told by"), rows) + f"\nEach may hold any of {codecs}.\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "wire": lambda: fields(wire_models()),
    "policy": lambda: fields(policy_models()),
    "profile": lambda: fields(profile_models()),
    "folders": folders,
    "still-formats": still_formats,
    "clip-formats": clip_formats,
}


def written(page: str) -> str:
    """Return the page with its generated blocks up to date."""
    return _BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], page)


def _about(path: Path) -> str:
    """Return the first line of the docstring of a module or package."""
    source = (path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0].replace("|", "\\|")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
        yield kind
    for each in get_args(kind):
        yield from _models(each)


def _kind(field: FieldInfo) -> str:
    return f"`{_type(field.annotation)}`".replace("|", "\\|")


def _type(kind: Any) -> str:
    """Return a type as people write it, without constraints."""
    parts, origin = get_args(kind), get_origin(kind)
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and origin is None:
        return {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}.get(
            kind.__name__, kind.__name__
        )
    if hasattr(kind, "__metadata__"):  # Annotated
        return _type(parts[0])
    name = getattr(origin, "__name__", str(origin))
    match name:
        case "Literal":
            return " | ".join(json.dumps(each) for each in parts)
        case "Union" | "UnionType":
            return " | ".join(dict.fromkeys(_type(each) for each in parts))
        case "tuple" if Ellipsis not in parts:
            return f"[{', '.join(_type(each) for each in parts)}]"
        case "tuple" | "list" | "Sequence":
            return f"list of {_type(parts[0])}"
        case "dict" | "Mapping":
            return f"map of {_type(parts[0])} to {_type(parts[1])}"
        case _:
            return "any" if kind is Any else str(kind).removeprefix("typing.")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or isinstance(value, BaseModel) else f"`{value}`"


def main() -> int:
    """Write the generated blocks. Return 1 if `--check` finds one out of date."""
    parser = argparse.ArgumentParser(description="Write the generated blocks of the pages in docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = [page for page in PAGES if written(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    for page in stale:
        if check:
            print(f"{page} is out of date: run `make tables`", file=sys.stderr)
        else:
            page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
