"""Attributes of other libraries, replaced for a while."""

import pytest

from roadwork_serve.replaced import replaced


class Library:
    @staticmethod
    def load(file: str) -> str:
        return file


def test_the_attribute_is_back_as_it_was_also_after_an_error() -> None:
    before = vars(Library)["load"]
    with pytest.raises(ValueError, match="boom"), replaced(Library, "load", staticmethod(str.upper)):
        assert Library.load("a") == Library().load("a") == "A"
        raise ValueError("boom")
    assert vars(Library)["load"] is before and Library().load("a") == "a"
