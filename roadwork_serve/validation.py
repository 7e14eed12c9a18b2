"""Validation of what is read from YAML and JSON: errors that name the entry and what to write instead."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from roadwork_serve.errors import ConfigError

#: A finite number; neither text nor true or false.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
#: A finite number of 0 or more.
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
#: A number from 0 to 1.
Probability = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
#: A whole number of 0 or more.
Count = Annotated[int, Field(strict=True, ge=0)]


class ConfigModel(BaseModel):
    """An immutable piece of configuration in which every entry is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the model for what YAML or JSON holds. Raises ConfigError naming the entry to mend."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, cls.__name__.lower())) from None

    def to_mapping(self) -> dict[str, Any]:
        """Return plain data that `parse` reads back into an equal model."""
        return self.model_dump(mode="json", exclude_none=True)


def rule_error(problem: str, field: str = "") -> PydanticCustomError:
    """Return the error to raise in a validator. `field` is the path of the entry below what is validated, if any."""
    return PydanticCustomError("rule", "{problem}", {"problem": problem, "field": field})


def explain(error: ValidationError, model: type[BaseModel], root: str) -> str:
    """Return each error as the path of the entry, what is wrong there, and what to write. `root` names the whole."""
    return "; ".join(_explain(each, model, root) for each in error.errors())


def _explain(error: ErrorDetails, model: type[BaseModel], root: str) -> str:
    path, known = _place(error["loc"], error["type"], model)
    shown = f"{error['input']!r}"
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    match error["type"]:
        case "missing":
            return f"{path} is missing; add it"
        case "union_tag_not_found":
            return f"{path}.{error['ctx']['discriminator'].strip(chr(39))} is missing; add it"  # type: ignore[typeddict-item]
        case "union_tag_invalid":
            ctx = error["ctx"]  # type: ignore[typeddict-item]
            return (
                f"{path}.{ctx['discriminator'].strip(chr(39))} is {ctx['tag']!r}; write one of {ctx['expected_tags']}"
            )
        case "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"remove it, or use one of {', '.join(sorted(known))}"
            return f"{path} is not a known field; {cure}"
        case "rule":
            ctx = error["ctx"]  # type: ignore[typeddict-item]
            at = _join(path, ctx["field"])
            return f"{at}: {ctx['problem']}" if at else ctx["problem"]
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{path or root} is {shown}; it should be a mapping of fields to values"
        case "invalid_key":
            return f"{path + ': ' if path else ''}the key {error['input']!r} is not a string; write names in quotes"
        case "tuple_type" | "list_type":
            return f"{path} is {shown}; it should be a list"
        case "value_error" if isinstance(error["input"], Mapping):  # the check of a whole model, which names the field
            return _join(path, error["msg"].removeprefix("Value error, "))
        case "too_long":
            ctx = error["ctx"]  # type: ignore[typeddict-item]
            return f"{path} has {ctx['actual_length'] or 'too many'} entries; write {ctx['max_length']}"
        case _:
            expected = error["msg"].removeprefix("Input should ").removeprefix("String should ")
            if expected == error["msg"]:
                expected = "be " + expected.removeprefix("Value error, ")
            return f"{path or root} is {shown}; it should {expected}"


def _place(loc: tuple[int | str, ...], error_type: str, model: type[BaseModel]) -> tuple[str, list[str]]:
    """Return the path of an entry as people write it, and the names of the fields beside it."""
    path, known, annotation = "", list[str](), cast("Any", model)
    for at, part in enumerate(loc):
        models = _models(annotation)
        known = [name for each in models for name in each.model_fields]
        if part == "[key]" or (error_type == "invalid_key" and at == len(loc) - 1):
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        elif len(models) > 1 and part not in known:  # the tag of a discriminated union
            annotation = next((each for each in models if _tag(each) == part), annotation)
        else:
            path = _join(path, part)
            annotation = next((m.model_fields[part].annotation for m in models if part in m.model_fields), annotation)
    return path, known


def _models(annotation: object) -> list[type[BaseModel]]:
    """Return the models that an annotation leads to."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for each in get_args(annotation) for model in _models(each)]


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return kind.default if kind is not None and get_origin(kind.annotation) is Literal else None


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path and field and not field.startswith("[") else path + field
