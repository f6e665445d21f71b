"""What a registered experiment's rule says of its results, and the table behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ladder import table
from qcrd.method.evaluation.statistics import t_interval
from qcrd.method.evaluation.verdicts import PairedT, paired_t
from qcrd.records.reports.verdicts import MIN_SEEDS

Line = dict[str, Any]
COLUMNS = ("row", "seeds", "accuracy: mean (95 % t interval)", "less R0: points (95 % t interval)")
COLUMNS += ("in force", "negatives", "steps", "tokens", "PFLOP", "s")


def render_page(registered: Mapping[str, Any], results: Sequence[Line]) -> str:
    """The verdicts by the registered rule, then every row."""
    lines = [line for line in results if "failed" not in line]
    by_row: dict[str, dict[int, Line]] = {}
    for line in lines:
        by_row.setdefault(line["method"], {})[line["seed"]] = line
    rows = (*registered["order"]["first"], *registered["order"]["then"])
    parts = [
        f"# {registered['name']}, registered {registered['registered']}",
        "",
        *(f"- {verdict}" for verdict in list_verdicts(registered, by_row)),
        "",
        table.format_row(COLUMNS),
        table.format_row(["---"] * len(COLUMNS)),
        *(_render_row(row, by_row) for row in rows),
    ]
    failed = [line for line in results if "failed" in line]
    parts += [f"\nfailed: {one['method']} seed {one['seed']}: {one['failed']}" for one in failed]
    return "\n".join(parts)


def list_verdicts(
    registered: Mapping[str, Any], by_row: Mapping[str, Mapping[int, Line]]
) -> list[str]:
    rule = registered["rule"]
    margin = rule["margin"]
    said = []
    if pair := rule["negatives_matter"]:
        found = _compare(by_row, *pair, margin)
        said.append(_decide_above(f"negatives matter ({pair[0]} - {pair[1]})", found, margin))
    if pair := rule["judge_matters"]:
        found = _compare(by_row, *pair, margin)
        said.append(_decide_above(f"the judge matters ({pair[0]} - {pair[1]})", found, 0.0))
    if pair := rule["inert"]:
        said.append(_decide_inert(by_row, pair, margin, rule["in_force"]))
    return said


def _compare(
    by_row: Mapping[str, Mapping[int, Line]], row: str, baseline: str, margin: float
) -> PairedT | None:
    """By whole pairs of seeds; None of fewer than a verdict takes. Of rows that differ by the same
    under every one of them there is no scatter to test by, and nothing that it could hide."""
    own, other = by_row.get(row, {}), by_row.get(baseline, {})
    seeds = sorted(own.keys() & other.keys())
    if len(seeds) < MIN_SEEDS:
        return None
    gains = [own[s]["test"] - other[s]["test"] for s in seeds]
    if (found := paired_t(gains, margin)) is not None:
        return found
    same = gains[0]
    return PairedT(same, same, p=float(not same), equivalence_p=float(abs(same) >= margin))


def _decide_above(name: str, found: PairedT | None, least: float) -> str:
    if found is None:
        return f"{name}: cannot tell, fewer than {MIN_SEEDS} seeds"
    holds = found.low > 0 and found.mean >= least
    return f"{name}: {'yes' if holds else 'not shown'}, {_describe(found)}"


def _decide_inert(
    by_row: Mapping[str, Mapping[int, Line]], pair: Sequence[str], margin: float, most: float
) -> str:
    name = f"{pair[0]} is inert (equivalent to {pair[1]} within {100 * margin:g} points)"
    found = _compare(by_row, *pair, margin)
    if found is None:
        return f"{name}: cannot tell, fewer than {MIN_SEEDS} seeds"
    shares = [line["in_force_share"] for line in by_row[pair[0]].values()]
    in_force = sum(shares) / len(shares)
    holds = found.equivalence_p <= 0.05 and in_force < most
    return (
        f"{name}: {'yes' if holds else 'not shown'}, {_describe(found)}, equivalence p = "
        f"{found.equivalence_p:.2g}, {in_force:.1%} of its negatives in force"
    )


def _describe(found: PairedT) -> str:
    return f"{100 * found.mean:+.2f} points [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _render_row(row: str, by_row: Mapping[str, Mapping[int, Line]]) -> str:
    own = list(by_row.get(row, {}).values())
    if not own:
        return table.format_row([row, "not run", *[""] * (len(COLUMNS) - 2)])
    accuracy = t_interval([line["test"] for line in own])
    interval = f" ({accuracy.low:.3f} to {accuracy.high:.3f})" if len(own) > 1 else ""
    found = None if row == "R0" else _compare_any(by_row, row)
    means = {name: table.mean_of(own, name) for name in ("in_force_share", "negatives", "steps")}
    cells = [
        row,
        str(len(own)),
        f"{accuracy.value:.3f}{interval}",
        "" if found is None else found,
        table.format_cell(means["in_force_share"], ".2f"),
        table.format_cell(means["negatives"], ",.0f"),
        table.format_cell(means["steps"], ".0f"),
        table.format_cell(table.mean_of(own, "tokens"), ",.0f"),
        f"{(table.mean_of(own, 'flops') or 0) / 1e15:.3f}",
        table.format_cell(table.mean_of(own, "seconds"), ".0f"),
    ]
    return table.format_row(cells)


def _compare_any(by_row: Mapping[str, Mapping[int, Line]], row: str) -> str:
    own, other = by_row[row], by_row.get("R0", {})
    seeds = sorted(own.keys() & other.keys())
    gains = [100 * (own[s]["test"] - other[s]["test"]) for s in seeds]
    if not gains:
        return ""
    interval = t_interval(gains)
    spread = f" ({interval.low:+.1f} to {interval.high:+.1f})" if len(gains) > 1 else ""
    return f"{interval.value:+.1f}{spread}"
