"""Checks of Python, the operating system and the packages."""

import sys
import tomllib

import pytest

from benchmarks.server import ROOT
from roadwork_serve.doctor.software import NEWEST, OLDEST, operating_system, packages, python


def test_the_supported_pythons_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (major, minor) = NEWEST
    assert project["requires-python"] == f">={OLDEST[0]}.{OLDEST[1]},<{major}.{minor + 1}"
    for version in (OLDEST, (3, 12), NEWEST):
        assert python((*version, 4)).level == "ok"
    for version in ((3, 10), (3, 14)):
        refused = python((*version, 0))
        assert refused.level == "problem" and "install one from 3.11 to 3.13" in refused.text


def test_platforms_without_packages_are_refused() -> None:
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")):
        assert operating_system(system, machine).level == "ok"
    assert operating_system("Windows", "AMD64").level == operating_system("Darwin", "x86_64").level == "problem"


def test_an_installation_without_models_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [each for each in packages() if each.level != "ok"]
    monkeypatch.setitem(sys.modules, "torch", None)
    (note,) = [each for each in packages() if each.level != "ok"]
    assert note.level == "note" and "needs torch, which is not installed" in note.text
    assert "roadwork-serve[models]" in note.text
