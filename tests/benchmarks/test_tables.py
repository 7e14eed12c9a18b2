"""Tests of the tables that pages quote from results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables


def write_result(folder: Path, name: str, result: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(result))


def row(server: str, rate: float, relative_throughput: float) -> dict[str, Any]:
    return {
        "server": server, "model": "bundled", "size": "50 kB", "start_s": 12.3,
        "throughputs": [rate - 1, rate, rate + 2],
        "bare": [{"per_s": 100.0, "decoding_share": 0.1}], "relative_throughput": relative_throughput,
        "cpu_ms": 20.4, "memory_mib": 1000, "refused": 0,
    }  # fmt: skip


def costing(row: dict[str, Any], marginal_cpu_ms: float) -> dict[str, Any]:
    return row | {"marginal_cpu_ms": marginal_cpu_ms, "rest_ms_per_s": 210.4}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [row(tables.OURS, 80.0, 0.8), row("One", 70.0, 0.7), row("Other", 90.0, 0.9)]
    write_result(tmp_path, "peers", {"runs": [{"rows": rows}]})
    return tmp_path


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_pages_are_up_to_date(page: Path) -> None:
    assert tables.update_page(page.read_text()) == page.read_text(), "run `make tables`"


def test_only_the_marked_table_is_replaced(results: Path) -> None:
    page = "before\n<!-- table: throughput -->\nold | old\n<!-- end -->\nafter <!-- end -->\n"
    once = tables.update_page(page, results)
    assert once == (
        "before\n<!-- table: throughput -->\n"
        "| model, JPEG | bare loop, images per second | roadwork-serve | One | Other |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| bundled, 50 kB | 100 | 0.80 (80, 79 to 82) | 0.70 (70, 69 to 72) | 0.90 (90, 89 to 92) |\n"
        "<!-- end -->\nafter <!-- end -->\n"
    )
    assert tables.update_page(once, results) == once


def test_the_summary_names_the_best_server_even_if_it_is_another(results: Path) -> None:
    assert (
        tables.summary(results).splitlines()[-1]
        == "| bundled, 50 kB | 0.80 (80, 79 to 82) | Other: 0.90 (90, 89 to 92) |  |"
    )


def test_the_best_at_the_margin_may_be_another_than_the_fastest(results: Path) -> None:
    rows = [costing(row(tables.OURS, 80.0, 0.8), 14.2), costing(row("One", 70.0, 0.7), 12.0),
            costing(row("Other", 90.0, 0.9), 16.0), costing(row("Lost", 60.0, 0.6), 1.0) | {"cpu_ms": 0.1},
            costing(row("roadwork-serve, no journal", 85.0, 0.85), 9.0)]  # fmt: skip
    write_result(results, "peers", {"runs": [{"rows": rows}]})
    assert tables.summary(results).splitlines()[-1].endswith("| Other: 0.90 (90, 89 to 92) | 14.2, One: 12.0 |")
    resources = tables.resources(results).splitlines()
    assert "| bundled | One | 20.4 | 12.0 | 210.4 | 1000 | 12 |" in resources
    assert "| bundled | Lost | unknown | unknown | unknown | unknown | 12 |" in resources


def test_ranges_over_rounds_are_shown(results: Path) -> None:
    rows = [costing(row(tables.OURS, 80.0, 0.8), 14.2) | {"marginal_cpu_ms_by_round": [14.2, 13.0, 18.0]},
            costing(row("One", 70.0, 0.7), 12.0) | {"marginal_cpu_ms_by_round": [12.0]}]  # fmt: skip
    over, middle = {"in_time_per_s": 60.0}, {"p50_ms": 20.0, "p99_ms": 90.0, "in_time_share": 1.0}
    curve = {"server": tables.OURS, "model": "bundled", "size": "50 kB", "saturated_per_s": 80.0, "overload": over,
             "points": [middle, middle], "sustained_per_s": None, "goodput": 0.75,
             "goodput_by_round": [0.75, 0.5, 0.8]}  # fmt: skip
    write_result(
        results, "peers", {"workloads": {"bundled": {"limit_s": 0.5}}, "runs": [{"rows": rows, "curves": [curve]}]}
    )
    assert tables.summary(results).splitlines()[-1].endswith("| 14.2 (13.0 to 18.0), One: 12.0 |")
    assert tables.latency(results).splitlines()[-1].endswith("| 60.0 (0.75, 0.50 to 0.80) |")


def test_the_time_of_this_servers_processes_is_shown_beside_that_of_the_best_other(results: Path) -> None:
    roles = {"Backbone": 9.1, "Ingress": 4.0, "haproxy": 0.5, "ProxyActor": 0.2, "raylet": 0.2, "gcs_server": 0.1}
    rows = [costing(row(tables.OURS, 80.0, 0.8), 14.2) | {"cpu_ms_by_role": roles},
            costing(row("One", 70.0, 0.7), 12.0) | {"cpu_ms_by_role": {"python": 12.0}},
            costing(row(tables.OURS, 9.0, 0.8), 99.0) | {"model": "vit-s"}]  # fmt: skip
    write_result(results, "peers", {"runs": [{"rows": rows}]})
    head, _, *lines = tables.processes(results).splitlines()
    assert head == "| ms of a core per answer | bundled, 50 kB |", "an earlier result has no times by process"
    assert lines == [
        "| replicas of stage 1 | 9.1 |",
        "| replicas of the sign reader | 0.0 |",
        "| ingress | 4.0 |",
        "| decoders | 0.0 |",
        "| journal | 0.0 |",
        "| HAProxy and Serve's proxies | 0.7 |",
        "| the rest of Ray and Serve | 0.3 |",
        "| all | 20.4 |",
        "| all, at the margin | 14.2 |",
        "| best other server, at the margin | 12.0, One |",
    ]


def test_figures_that_an_earlier_result_lacks_are_blank(results: Path) -> None:
    assert "| bundled | One | 20.4 |  |  | 1000 | 12 |" in tables.resources(results).splitlines()


def test_refusals_at_saturation_are_reported(results: Path) -> None:
    write_result(results, "peers", {"runs": [{"rows": [row("One", 70.0, 0.7) | {"refused": 3}]}]})
    assert "| 0.70 (70, 69 to 72, some unanswered) |" in tables.throughput(results)


def write_goals(results: Path) -> None:
    """Write results with the figures of all goals. As shipped the others have half their throughput with one model."""
    servers = {tables.OURS: (0.8, 0.85, 10.0), "One": (0.85, 0.4, 12.0), "Other": (0.7, 0.3, 9.0),
               "roadwork-serve, no journal": (0.9, 0.9, 8.0)}  # fmt: skip
    rows = [costing(row(server, 80.0, share), ms) for server, (share, _, ms) in servers.items()]
    rows += [each | {"model": "cascade"} for each in rows]
    for each in rows[: len(servers)]:
        share = each["relative_throughput"] * (1.0 if each["server"].startswith(tables.OURS) else 0.5)
        rows.append(each | {"model": "bundled, as shipped", "relative_throughput": share})
        rows.append(each | {"model": "cascade, as shipped"})
    curves = [{"server": server, "model": "bundled", "goodput": share} for server, (_, share, _) in servers.items()]
    write_result(results, "peers", {"runs": [{"rows": rows, "curves": curves}]})
    write_result(results, "overhead", {"rows": [{"model": "vit-s", "relative_throughput": 0.84}]})
    write_result(results, "decode", {"sides": {"224": {"roadwork-serve": {"speedup": 4.0}}}})


def test_goals_are_reported_as_met_or_missed(tmp_path: Path) -> None:
    write_goals(tmp_path)
    assert [line.split(" | ")[1:] for line in tables.goals(tmp_path).splitlines()[2:]] == [
        ["0.85", "0.84", "missed |"],  # of the loop
        ["1", "1.88 (One)", "met |"],  # one model as shipped, beside the best of the others
        ["1", "0.94 (One)", "missed |"],  # the cascade
        ["0.95", "0.90 (Other)", "missed |"],  # the margin of one model, with equal engines
        ["0.95", "0.90 (Other)", "missed |"],  # that of the cascade
        ["2", "2.12 (One)", "met |"],  # overload
        ["0.8", "0.85", "met |"],
        ["3", "4.00", "met |"],
    ]


def test_goals_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    write_goals(tmp_path)
    rows = [row(tables.OURS, 80.0, 0.8), row("One", 70.0, 0.7)]
    write_result(tmp_path, "peers", {"runs": [{"rows": rows, "curves": []}]})
    assert len(tables.goals(tmp_path).splitlines()[2:]) == 2, "the loop and decoding"


def test_an_unknown_table_is_an_error(results: Path) -> None:
    with pytest.raises(KeyError, match="nonsense"):
        tables.update_page("<!-- table: nonsense -->\n<!-- end -->", results)


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
    write_result(tmp_path, "real-photos", {"runs": runs})
    rows = tables.photographs(tmp_path).splitlines()[2:]
    assert rows[0] == "| before: stage 1 | photos | 10 (4) |  |  | 0.700 | 0.722 (3) |  / 0.25 | 0.123 | 0 |"
    assert rows[1] == (
        "| before: cascade | photos | 10 (4) | 0.750 | 0.708 | 0.700 | 0.722 (3) | 0.50 / 0.25 | 0.123 | 4, 50% |"
    )
    assert [row.split(" |")[0] for row in rows[2:]] == ["| after: stage 1", "| after: cascade"]
