"""A condition on verdicts in JSON: whether a stage was of another opinion."""

from typing import Any

from sqlalchemy import Boolean, ColumnElement
from sqlalchemy.ext.compiler import compiles

_REPORTS = {
    "sqlite": (
        "json_each(predictions.verdict, '$.stages')",
        "json_extract(report.value, '$.probability')",
        "json_extract(predictions.verdict, '$.positive')",
    ),
    "postgresql": (
        "json_array_elements(CAST(predictions.verdict AS json) -> 'stages')",
        "CAST(report.value ->> 'probability' AS double precision)",
        "CAST(CAST(predictions.verdict AS json) ->> 'positive' AS boolean)",
    ),
}


class StagesDisagree(ColumnElement[bool]):
    """True for a prediction with a stage whose own probability speaks against the label, by whatever margin."""

    inherit_cache = True
    type = Boolean()


@compiles(StagesDisagree)
def _compiled(_: StagesDisagree, compiler: Any, **__: Any) -> str:
    reports, probability, recorded = _REPORTS[compiler.dialect.name]
    positive = f"COALESCE({recorded}, predictions.label = 'roadwork')"  # old verdicts have no `positive`
    return (
        f"EXISTS (SELECT 1 FROM {reports} AS report WHERE (NOT {positive} AND {probability} > 0.5)"  # noqa: S608 - constants
        f" OR ({positive} AND {probability} < 0.5))"
    )
