"""The commands, targets, files, verdicts and settings that README and docs/ name exist and are valid."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deployments.app import Args
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cli.main import app
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from roadwork_serve.profiles.task import parse_task
from roadwork_serve.schema import Verdict
from tests.docs.pages import PAGES, ROOT, Block, blocks

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
SHELL = blocks("sh")


def parsed(command: Any, name: str, words: list[str]) -> None:
    """Parse the arguments of a command, without running it."""
    context = command.make_context(name, list(words))
    if hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        parsed(command, name, rest)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_accept_the_options_in_the_pages(block: Block) -> None:
    for words in block.commands():
        program, *rest = words
        match Path(program).name:
            case "make":
                assert {word for word in rest if "=" not in word} <= TARGETS, words
            case "roadwork":
                rest = rest[: next((at for at, word in enumerate(rest) if word in ("|", ">", "2>>", "<")), len(rest))]
                parsed(typer.main.get_command(app), "roadwork", rest)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(Exception, match="--colour") as caught:
        parsed(typer.main.get_command(app), "roadwork", ["policy", "show", "--colour"])
    assert "NoSuchOption" in type(caught.value).__name__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_the_pages_exist(page: Path) -> None:
    assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_in_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:benchmarks|tests|ops|docs|roadwork_serve|deployments)/[\w./-]+\.\w+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_in_the_pages_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    assert [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text()] == []


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_verdicts_in_the_pages_are_valid(block: Block) -> None:
    assert Verdict.model_validate(json.loads(block.text)).stages


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_settings_in_the_pages_are_valid(block: Block) -> None:
    shown = yaml.safe_load(block.text)
    if "question" in shown:
        assert parse_task(shown).prompt().endswith("Answer YES or NO.")
        return
    if "overrides" in shown:
        args = Args.model_validate({name: shown[name] for name in ("profile", "overrides")})
        assert load_profile(args.profile, args.overrides).ingress.replicas
        return

    def in_full(name: str) -> dict[str, Any]:
        return dict(load_policy_mapping("mini")) | {"version": name}

    rollout = {"policy": in_full(shown.pop("policy"))}
    for key, part in shown.items():
        rollout[key] = part | ({"policy": in_full(part["policy"])} if "policy" in part else {})
    assert Rollout.parse(rollout).policy.version == "mini"


def test_examples_that_are_not_run_have_a_reason() -> None:
    assert all(len(block.why_not.split()) > 2 for block in SHELL if block.why_not is not None)


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """`make docs` builds the real pages; here a broken link must fail the build."""
    for name in ("mkdocs.yml", "docs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "docs/limits.md").write_text("[nowhere](nowhere.md)")
    command = [sys.executable, "-m", "mkdocs", "build"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode != 0 and "nowhere.md" in done.stderr
