"""The public surfaces contain no name of the former private vocabulary."""

import pytest

from tests.docs.names import OLD_NAMES, OLD_WORDS, Found, names, parts, texts, words

#: Legitimate uses of an old name, as (place, name), each with the reason.
ALLOWED_NAMES: dict[tuple[str, str], str] = {
    ("cli: roadwork classify", "files"): "the argument FILE...; `files` was a table of the journal",
    ("settings: JournalSpec", "url"): "the URL of a database; `--url` was the option for a server or a journal",
    ("settings: ServerSettings", "url"): "the URL of an OpenAI-compatible server, below `server`",
    ("sql: predictions", "key"): "the X-Request-Key of the request; `key` was a command",
}

#: Legitimate uses of an old word in a text, as (word, words around it), each with the reason.
ALLOWED_TEXTS: dict[tuple[str, str], str] = {
    ("card", "model card"): "the field's term for the description of a model",
    ("cards", "model cards"): "the same",
}


def test_no_old_name_is_a_name() -> None:
    left = [
        f"{found.place}: {found.text}; use {OLD_NAMES[found.text]}"
        for found in names()
        if found.text in OLD_NAMES and (found.place, found.text) not in ALLOWED_NAMES
    ]
    assert not left, "\n".join(sorted(set(left)))


def test_no_name_contains_an_old_word() -> None:
    left = [
        f"{found.place}: {found.text}; use {OLD_WORDS[word]}"
        for found in names()
        for word in parts(found.text)
        if word in OLD_WORDS and (found.place, found.text) not in ALLOWED_NAMES
    ]
    assert not left, "\n".join(sorted(set(left)))


def test_no_text_contains_an_old_word() -> None:
    left = [
        f"{found.place}: {word!r} in {found.text!r}; use {OLD_WORDS[word]}"
        for found in texts()
        for word in words(without_allowed(found.text))
        if word in OLD_WORDS
    ]
    assert not left, "\n".join(sorted(set(left)))


def without_allowed(text: str) -> str:
    """Return the text without the legitimate uses."""
    for _, around in ALLOWED_TEXTS:
        text = text.replace(around, "")
    return text


def test_every_exception_is_used_and_has_a_reason() -> None:
    there = {(found.place, found.text) for found in names()}
    assert set(ALLOWED_NAMES) <= there
    assert all(len(reason) > 5 for reason in (*ALLOWED_NAMES.values(), *ALLOWED_TEXTS.values()))


@pytest.mark.parametrize("surface", ["openapi", "metrics", "cli", "settings"])
def test_every_surface_is_read(surface: str) -> None:
    assert sum(found.place.startswith(surface) for found in names()) > 20
    assert sum(found.place.startswith(surface) and bool(found.text) for found in texts()) > 20


def test_an_old_name_would_be_found() -> None:
    assert Found("sql", "predictions") in set(names())
    assert parts("stageLooks") == parts("stage_looks") == parts("stage-looks") == ["stage", "looks"]
    assert not set(OLD_NAMES) & {"evidence", "revision", "label"}
