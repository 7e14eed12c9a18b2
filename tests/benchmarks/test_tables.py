"""What pages quote is what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables


def kept(folder: Path, name: str, result: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(result))


def row(server: str, rate: float, of_bare: float) -> dict[str, Any]:
    return {
        "server": server, "model": "bundled", "size": "50 kB", "start_s": 12.3, "repeats": [rate - 1, rate, rate + 2],
        "bare": [{"per_s": 100.0, "decoding": 0.1}], "of_bare": of_bare,
        "cpu_ms": 20.4, "memory_mib": 1000, "refused": 0,
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [row(tables.OURS, 80.0, 0.8), row("One", 70.0, 0.7), row("Other", 90.0, 0.9)]
    kept(tmp_path, "peers", {"runs": [{"rows": rows}]})
    return tmp_path


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_pages_are_up_to_date(page: Path) -> None:
    assert tables.written(page.read_text()) == page.read_text(), "run `make tables`"


def test_a_table_stands_where_the_page_wants_it_and_nothing_else_is_touched(results: Path) -> None:
    page = "before\n<!-- table: shares -->\nold | old\n<!-- end -->\nafter <!-- end -->\n"
    once = tables.written(page, results)
    assert once == (
        "before\n<!-- table: shares -->\n"
        "| model, JPEG | bare loop, a second | roadwork-serve, fast | One | Other |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| bundled, 50 kB | 100 | 0.80 (80, 79 to 82) | 0.70 (70, 69 to 72) | 0.90 (90, 89 to 92) |\n"
        "<!-- end -->\nafter <!-- end -->\n"
    )
    assert tables.written(once, results) == once


def test_the_summary_names_whoever_is_best_even_where_that_is_somebody_else(results: Path) -> None:
    assert (
        tables.summary(results).splitlines()[-1]
        == "| bundled, 50 kB | 0.80 (80, 79 to 82) | Other: 0.90 (90, 89 to 92) |"
    )


def test_a_server_that_refused_while_it_was_saturated_is_told_of(results: Path) -> None:
    kept(results, "peers", {"runs": [{"rows": [row("One", 70.0, 0.7) | {"refused": 3}]}]})
    assert "| 0.70 (70, 69 to 72, some unanswered) |" in tables.shares(results)


def aimed(results: Path, of_loop: float = 0.84) -> None:
    """Results of what is aimed at."""
    servers = {tables.OURS: (0.8, 0.85), "One": (0.85, 0.4), "Other": (0.7, 0.3), "roadwork-serve": (0.9, 0.9)}
    rows = [row(server, 80.0, share) for server, (share, _) in servers.items()]
    rows += [each | {"model": "cascade"} for each in rows]
    curves = [{"server": server, "model": "bundled", "goodput": kept} for server, (_, kept) in servers.items()]
    kept(results, "peers", {"runs": [{"rows": rows, "curves": curves}]})
    kept(results, "overhead", {"rows": [{"model": "vit-s", "share": of_loop}]})
    kept(results, "decode", {"sides": {"224": {"roadwork-serve": {"times_faster": 4.0}}}})


def test_goals_are_told_of_whether_they_are_met_or_not(tmp_path: Path) -> None:
    aimed(tmp_path)
    assert [line.split(" | ")[1:] for line in tables.goals(tmp_path).splitlines()[2:]] == [
        ["0.85", "0.84", "missed", "", " |"],  # of the loop
        ["0.9", "0.94 (One)", "met", "", " |"],  # one model, beside the best of the others
        ["1", "0.94 (One)", "missed", "", " |"],  # the cascade
        ["2", "2.12 (One)", "met", "", " |"],  # overload
        ["0.8", "0.85", "met", "", " |"],
        ["3", "4.00", "met", "", " |"],
    ]


def test_goals_are_told_beside_those_of_an_earlier_run(tmp_path: Path) -> None:
    aimed(tmp_path)
    (tmp_path / tables.EARLIER).mkdir()
    aimed(tmp_path / tables.EARLIER, of_loop=0.9)
    assert "| 0.85 | 0.84 | missed | 0.90 | met |" in tables.goals(tmp_path)


def test_a_table_that_nobody_makes_is_an_error(results: Path) -> None:
    with pytest.raises(KeyError, match="nonsense"):
        tables.written("<!-- table: nonsense -->\n<!-- end -->", results)


def test_what_ran_on_a_card_is_marked_with_it(tmp_path: Path) -> None:
    assert "Nothing has been measured on a GPU" in tables.cards(tmp_path)
    case = {"model": "vit-l", "what": "forward", "mode": "eager", "batch": 16, "side": 224}
    kept(tmp_path, "gpu-some-card", {"card": "Some card", "rows": [{"case": case, "timing": {"median_ms": 9.96},
                                                                    "per_s": 1606.0}]})  # fmt: skip
    assert "| Some card | vit-l forward, eager, batch 16, 224 px | 10.0 | 1606.0 |" in tables.cards(tmp_path)


def test_photographs_have_a_row_for_stage_1_and_for_the_cascade_of_each_run_and_set(tmp_path: Path) -> None:
    whole = {
        "n": 10, "positives": 4, "accuracy": 0.7, "balanced_accuracy": 0.7083, "auc": 0.75, "mcc": 0.4, "ece": 0.123,
        "hard_negatives": 2, "hard_false_positives": 0.5, "plain_false_positives": 0.25, "confident": 4,
        "confident_errors": 0.5,
    }  # fmt: skip
    one_class = whole | {"balanced_accuracy": None, "auc": None, "hard_false_positives": None, "confident": 0,
                         "confident_errors": None}  # fmt: skip
    macro = {"sources": 3, "accuracy": 0.7222}
    photos = {"stage1": {"overall": one_class, "macro": macro}, "cascade": {"overall": whole, "macro": macro}}
    runs = {label: {"sets": [{"name": "photos", "photos": photos}]} for label in ("before", "after")}
    kept(tmp_path, "real-photos", {"runs": runs})
    rows = tables.photographs(tmp_path).splitlines()[2:]
    assert rows[0] == "| before: stage 1 | photos | 10 (4) |  |  | 0.700 | 0.722 (3) |  / 0.25 | 0.123 | 0 |"
    assert rows[1] == (
        "| before: cascade | photos | 10 (4) | 0.750 | 0.708 | 0.700 | 0.722 (3) | 0.50 / 0.25 | 0.123 | 4, 50% |"
    )
    assert [row.split(" |")[0] for row in rows[2:]] == ["| after: stage 1", "| after: cascade"]
