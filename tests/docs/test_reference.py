"""The blocks of the pages that are generated from the code, and the glossary, against the models."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs import reference
from tests.docs.pages import ROOT

GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
MODELS = {
    "HTTP API": reference.wire_models(),
    "Policy and rollout": reference.policy_models(),
    "Profile": reference.profile_models(),
}


def section(title: str) -> str:
    """Return the text of a section of the glossary."""
    return GLOSSARY.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("page", reference.PAGES, ids=lambda page: page.name)
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert reference.written(text) == text, "run `make tables`"


@pytest.mark.parametrize("title", MODELS)
def test_the_glossary_has_every_field_with_a_meaning(title: str) -> None:
    listed: dict[str, dict[str, str]] = {}
    for part in section(title).split("\n### ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| .*[^\\] \| ([^|]*) \|$", part, re.M)
        listed[part.split("\n")[0]] = {name: meaning.strip() for name, meaning in rows}
    assert {name: set(rows) for name, rows in listed.items()} == {
        model.__name__: set(model.model_fields) for model in MODELS[title]
    }
    assert [f"{model}.{name}" for model, rows in listed.items() for name, meaning in rows.items() if not meaning] == []


@pytest.mark.parametrize(
    "model",
    list(dict.fromkeys(model for models in MODELS.values() for model in models)),
    ids=lambda model: model.__name__,
)
def test_every_model_is_described(model: type[BaseModel]) -> None:
    assert (model.__doc__ or "").strip()


@pytest.mark.parametrize("title", MODELS)
def test_every_value_of_an_enumeration_is_explained_or_listed(title: str) -> None:
    for model in MODELS[title]:
        for name, field in model.model_json_schema(by_alias=False)["properties"].items() if model.model_fields else ():
            for value in field.get("enum", ()):
                assert f'"{value}"' in section(title) or f"`{value}`" in GLOSSARY, f"{model.__name__}.{name}"


def test_the_map_of_folders_has_every_package_and_describes_it() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", page, re.M))
    package = ROOT / "roadwork_serve"
    there = {f"roadwork_serve/{path.name}" for path in package.glob("*.py") if path.name != "__init__.py"}
    there |= {f"roadwork_serve/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert there <= set(rows)
    assert {path for path in rows if not (ROOT / path).exists()} == set()
    assert [path for path, about in rows.items() if not about.strip()] == []


def test_every_folder_of_the_checkout_is_on_the_map() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for folder in (*packages["packages"], "benchmarks", "docs", "ops", "tests"):
        assert f"`{folder}/" in page


def test_recipes_have_at_most_ten_lines_and_name_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    recipes = re.split(r"^\*\*\.\.\. ", page.split("## Where do I put ...\n")[1], flags=re.M)[1:]
    assert len(recipes) == 5
    for recipe in recipes:
        assert len([line for line in recipe.splitlines() if line.strip()]) <= 10, recipe
        for name in re.findall(r"`((?:roadwork_serve|deployments)/[a-z_/]+(?:\.py|/))`", recipe):
            assert (ROOT / name).exists(), name
