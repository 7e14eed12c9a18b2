"""Tokenizer and chat template of a model from its files, without transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from roadwork_serve.errors import ModelError


class TokenizerFile:
    """The tokenizer of tokenizer.json, with the names of transformers for what engines need of it."""

    def __init__(self, folder: Path) -> None:
        """Read the files."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.bos_token, self.eos_token = (_text(settings.get(name)) for name in ("bos_token", "eos_token"))
        self.unk_token_id = self.convert_tokens_to_ids(_text(settings.get("unk_token")))
        self.eos_token_id = self.convert_tokens_to_ids(self.eos_token)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, token: str | None) -> int | None:
        """Return the id of a token; None if there is none."""
        return None if token is None else self._tokenizer.token_to_id(token)


class ProcessorFiles:
    """The files of a processor: tokenizer, chat template, settings of the images and clips."""

    def __init__(self, folder: Path) -> None:
        """Read the files.

        Raises:
            ModelError: The tokenizer cannot be read.
        """
        try:
            self.tokenizer = TokenizerFile(folder)
        except Exception as error:  # the tokenizers' errors are of type Exception itself
            raise ModelError(f"the tokenizer of {folder} cannot be read: {error}. Copy the folder again") from error
        self.settings: dict[str, Any] = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        self.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        # A template is code of the checkpoint's author: it runs in jinja's sandbox, with transformers' two settings.
        self._template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            self.chat_template
        )
        generation = folder / "generation_config.json"
        found = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
        #: Tokens that end a text, by the generation config.
        self.end_tokens: int | list[int] | None = found.get("eos_token_id")

    def apply_chat_template(self, messages: Sequence[Any], *, tokenize: bool = False, **variables: Any) -> str:
        """Return a conversation as text."""
        if tokenize:
            raise ValueError("only the text is made here")
        return self._template.render(messages=messages, **variables)


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
