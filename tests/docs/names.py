"""The names that the project no longer uses, and every name and text that users meet.

Before 0.1.0 the project had a private vocabulary. The field's terms replaced it; `test_names` keeps it out of the
public surfaces: HTTP API, metrics, command line, profiles, policies, SQL.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args

import typer
import yaml

from docs import reference
from roadwork_serve.cli.main import app
from roadwork_serve.journal.tables import metadata
from roadwork_serve.miner.settings import MinerSettings
from tests.docs.pages import ROOT

#: Names of fields, options, columns, metrics, commands and models, and what replaced them.
OLD_NAMES = {
    # HTTP API
    "saw": "evidence",
    "thought": "reasoning",
    "words": "text_lines",
    "left_over": "other_token_mass",
    "coarse": "from_choice",
    "words_likely": "text_probability",
    "batch_ms": "preprocess_ms",
    "hop_ms": "rpc_ms",
    "gear": "degradation_level",
    "gears": "degradation_levels",
    "survey": "audit_rate, audit",
    "in_work": "in_flight",
    "reading": "decoding",
    "late": "deadline_exits",
    "refused": "rejected",
    "said": "human_label",
    "why": "reasons",
    "kept": "media_available, keep_features",
    "hardness": "informativeness",
    "hard": "sort=informativeness, informative",
    "number": "revision",
    "policy_number": "policy_revision",
    "edition": "revision",
    "editions": "revisions",
    "by": "author",
    "at": "created_at",
    "restores": "rollback_of",
    "rules": "rollout",
    "given_up": "abandoned",
    "judged": "compared, completed",
    "turned": "flipped",
    "marked": "labeled",
    "right_now": "correct_current",
    "right_then": "correct_proposed",
    "unknown_now": "unknown_current",
    "gflops_now": "gflops_current",
    "gflops_then": "gflops_proposed",
    "now": "current",
    "then": "proposed",
    "answered_so": "label",
    # policy
    "decide_at": "decision_threshold",
    "calibrate_by": "calibration",
    "carry": "prior_weight",
    "when_words_likely": "min_text_probability",
    "needs_ms": "min_time_left_ms",
    "wait_ms": "queue_wait_ms",
    "keep": "band_factor",
    "at_once": "max_concurrent",
    "max_loss": "risk_limit",
    "by_people": "human_labeled",
    "promises": "bounds",
    "losses": "errors",
    "knots": "isotonic",
    # profile
    "runs": "backend",
    "quantised": "quantization",
    "may_sleep": "scale_to_zero",
    "surge": "rolling_surge",
    "turns": "time_slice_group",
    "reader": "ocr",
    "cards": "gpus",
    "cards_gib": "gpus_gib",
    "media_cap_gib": "max_media_gib",
    "spool_mib": "max_spool_mib",
    "thought_tokens": "reasoning_tokens",
    # SQL
    "answers": "predictions, entries",
    "asides": "deferred_results",
    "marks": "annotations",
    "files": "media_files",
    "of": "prediction_id",
    "at_s": "created_at_s",
    "useful": "usefulness",
    # metrics
    "roadwork_ms": "roadwork_latency_seconds",
    "roadwork_stage_looks": "roadwork_stage_items_total",
    "roadwork_stage_ms": "roadwork_stage_seconds",
    "roadwork_stage_batch": "roadwork_stage_batch_size",
    "roadwork_gflops": "roadwork_flops_total",
    "roadwork_refused": "roadwork_rejected_total",
    "roadwork_shadow": "roadwork_shadow_verdicts_total",
    "roadwork_gear": "roadwork_degradation_level",
    "roadwork_policy_number": "roadwork_policy_revision",
    "roadwork_in_work": "roadwork_in_flight_requests",
    "roadwork_reading": "roadwork_decoding_files",
    "roadwork_stage_waiting": "roadwork_stage_queued_items",
    "roadwork_stage_calls": "roadwork_stage_in_flight_calls",
    "roadwork_stage_breaker": "roadwork_stage_breaker_state",
    "roadwork_surveyed": "roadwork_audited_items",
    "roadwork_journal_waiting": "roadwork_journal_pending_records",
    "roadwork_journal_dropped": "roadwork_journal_dropped_records",
    "roadwork_turn_seconds": "roadwork_time_slice_switch_seconds",
    # command line
    "ask-everyone": "--all-stages",
    "may-skip": "--max-skipped",
    "held": "--val-fraction",
    "leave": "--holdout",
    "design": "--calibration-rows",
    "whole": "--complete",
    "from-journal": "--journal",
    "url": "--server, --journal",
    "key": "keys create",
    "mine": "miner",
    "max-loss": "--risk-limit",
    "fit-policy": "calibrate, tune",
    # models
    "Saw": "Evidence",
    "Opinion": "StagePrediction",
    "Judged": "RoutedVerdict",
    "Rules": "Rollout",
    "Gear": "DegradationLevel",
    "Promise": "RiskBound",
    "Edition": "PolicyRevision",
    "Told": "Stats",
    "Words": "TextLine",
    "Mark": "HumanLabel",
    "JournaledAnswer": "JournalEntry",
}

#: Words that have a standard term; they may be part of no name and of no text.
OLD_WORDS = {
    "look": "predict, check",
    "looks": "predictions",
    "looked": "predicted, checked",
    "told": "returned, configured",
    "tells": "returns, reports",
    "said": "predicted, returned",
    "says": "returns, states",
    "taught": "trained",
    "teaches": "trains",
    "everyone": "all stages, all replicas",
    "everybody": "all clients",
    "whoever": "a client, anyone",
    "card": "GPU",
    "cards": "GPUs",
    "recall": "journal client",
    "turn": "time slice",
    "turns": "time slices",
    "gear": "degradation level",
    "gears": "degradation levels",
    "survey": "audit",
    "surveyed": "audited",
    "surveys": "audits",
    "hop": "RPC",
    "opinion": "prediction",
    "opinions": "predictions",
    "rulebook": "policy store",
    "edition": "revision",
    "editions": "revisions",
    "ledger": "statistics",
    "hardness": "informativeness",
    "aside": "deferred result",
    "asides": "deferred results",
    "mining": "active learning",
    "promise": "bound",
    "promised": "bounded",
    "quantised": "quantized",
    "spoilt": "early-exit error",
}


@dataclass(frozen=True)
class Found:
    """A name or a text that users meet."""

    #: Where, such as `openapi: Verdict.label`.
    place: str
    #: The name, or the text.
    text: str


@cache
def names() -> Sequence[Found]:
    """Return the names of fields, parameters, commands, options, metrics, labels, tables and columns."""
    surfaces = (_openapi_names, _metric_names, _cli_names, _profile_names, _sql_names)
    return tuple(found for surface in surfaces for found in surface())


@cache
def texts() -> Sequence[Found]:
    """Return the texts that explain them: descriptions, HELP texts, command help."""
    surfaces = (_openapi_texts, _metric_texts, _cli_texts, _profile_texts)
    return tuple(found for surface in surfaces for found in surface())


def parts(name: str) -> list[str]:
    """Return the words of a name in lower case: `SignReader`, `sign_reader` and `sign-reader` have two."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[a-z]+", text.lower())


def _openapi() -> dict[str, Any]:
    return json.loads(reference.openapi())


def _openapi_names() -> Iterator[Found]:
    document = _openapi()
    for path, methods in document["paths"].items():
        for part in re.findall(r"[\w-]+", path):
            yield Found(f"openapi: {path}", part)
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                yield Found(f"openapi: {method} {path}", parameter["name"])
                for value in parameter["schema"].get("enum", ()):
                    yield Found(f"openapi: {method} {path} {parameter['name']}", value)
    for name, schema in _schemas(document):
        yield Found("openapi: schemas", name)
        for field, about in schema.get("properties", {}).items():
            yield Found(f"openapi: {name}", field)
            for value in about.get("enum", ()):
                yield Found(f"openapi: {name}.{field}", str(value))


def _openapi_texts() -> Iterator[Found]:
    document = _openapi()
    yield Found("openapi: info", document["info"].get("description", ""))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            place = f"openapi: {method} {path}"
            yield from (Found(place, operation.get(key, "")) for key in ("summary", "description"))
            yield from (Found(place, each.get("description", "")) for each in operation.get("parameters", ()))
            yield from (Found(place, each["description"]) for each in operation["responses"].values())
    for name, schema in _schemas(document):
        yield Found(f"openapi: {name}", schema.get("description", ""))
        for field, about in schema.get("properties", {}).items():
            yield Found(f"openapi: {name}.{field}", about.get("description", ""))


def _schemas(node: object, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schemas of an OpenAPI document, those that routes embed included."""
    if isinstance(node, dict):
        if "properties" in node and isinstance(node["properties"], dict):
            yield str(node.get("title", name)), node
        for key, value in node.items():
            yield from _schemas(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _schemas(value, name)


def _metric_files() -> list[ast.Module]:
    files = (*(ROOT / "deployments").glob("*.py"), *(ROOT / "roadwork_serve/miner").glob("*.py"))
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(files)]


def _metric_calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call that names a metric, with the name."""
    for tree in _metric_files():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.args[0].value
                if isinstance(name, str) and re.fullmatch(r"roadwork_\w+", name):
                    yield name, node


def _constants(node: ast.AST) -> Iterator[str]:
    return (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def _metric_names() -> Iterator[Found]:
    for tree in _metric_files():
        yield from (Found("metrics", text) for text in _constants(tree) if re.fullmatch(r"roadwork_\w+", text))
    for name, call in _metric_calls():  # labels
        for label in (text for text in _constants(call) if re.fullmatch(r"[a-z_]+", text)):
            yield Found(f"metrics: {name}", label)


def _metric_texts() -> Iterator[Found]:
    for name, call in _metric_calls():
        yield from (Found(f"metrics: {name}", text) for text in _constants(call) if " " in text)


def _commands() -> Iterator[tuple[str, Any]]:
    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{path} {name}", inner)

    yield from walk("roadwork", typer.main.get_command(app))


def _cli_names() -> Iterator[Found]:
    for path, command in _commands():
        yield Found("cli", path.split()[-1])
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                yield Found(f"cli: {path}", option.lstrip("-"))
            for value in _choices(parameter):
                yield Found(f"cli: {path} {parameter.opts[0]}", value)
    for name in MinerSettings.model_fields:
        yield Found("cli: miner.py", name)


def _choices(parameter: Any) -> Iterator[str]:
    """Yield the values that an option may have, if they are listed."""

    def walk(kind: Any) -> Iterator[str]:
        if isinstance(kind, type) and issubclass(kind, Enum):
            yield from (str(each.value) for each in kind)
        for each in get_args(kind):
            yield from (each,) if isinstance(each, str) else walk(each)

    described = getattr(parameter, "type_descriptor", None)  # Typer's own --help has none
    yield from walk(getattr(described, "annotation", None))


def _cli_texts() -> Iterator[Found]:
    for path, command in _commands():
        yield Found(f"cli: {path}", command.help or "")
        for parameter in command.params:
            yield Found(f"cli: {path} {parameter.opts[0]}", getattr(parameter, "help", None) or "")
    yield Found("cli: miner.py", MinerSettings.__doc__ or "")
    for name, field in MinerSettings.model_fields.items():
        yield Found(f"cli: miner.py {name}", field.description or "")


def _profile_names() -> Iterator[Found]:
    """Yield the keys of the profiles and policies that ship, and the fields that they may have."""
    for model in (*reference.policy_models(), *reference.profile_models()):
        yield Found("settings", model.__name__)
        yield from (Found(f"settings: {model.__name__}", name) for name in model.model_fields)
    folder = ROOT / "roadwork_serve/profiles"
    for path in (ROOT / "serve_config.yaml", *sorted(folder.glob("*.yaml")), *sorted(folder.glob("*/*.yaml"))):
        if path.name != "flops.yaml":  # the cost of models, no settings
            yield from (Found(path.name, key) for key in _keys(yaml.safe_load(path.read_text(encoding="utf-8"))))


def _keys(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys(value)


def _profile_texts() -> Iterator[Found]:
    for model in (*reference.policy_models(), *reference.profile_models()):
        yield Found(f"settings: {model.__name__}", model.__doc__ or "")
        for name, field in model.model_fields.items():
            yield Found(f"settings: {model.__name__}.{name}", field.description or "")


def _sql_names() -> Iterator[Found]:
    for table in metadata.sorted_tables:
        yield Found("sql", table.name)
        yield from (Found(f"sql: {table.name}", column.name) for column in table.columns)
        yield from (Found(f"sql: {table.name}", str(index.name)) for index in table.indexes)
