"""The page of a GPU's results, dated and with the card's name, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.ladder import FILE
from benchmarks.gpu.results import is_good, read_json
from benchmarks.ladder import table
from qcrd.errors import NotFound

STAGES = ("smoke", "speed")
NUMBERS = ("max_loss_difference", "max_logprob_difference", "max_score_difference")


def render(folder: Path) -> tuple[str, str]:
    """The page's date, and its text. `NotFound` where no stage has left results."""
    found = {stage: read_json(folder / f"{stage}.json") for stage in STAGES}
    found = {stage: body for stage, body in found.items() if body}
    runs = table.read_results(folder / FILE)
    if not found:
        raise NotFound(f"no results in {folder}: run `make gpu STAGE=smoke` first", param="out")
    body = next(iter(found.values()))
    machine = body["machine"]
    date = max(part["at"] for body in found.values() for part in body["parts"].values())[:10]
    lines = [f"# On one GPU: {machine['card']} ({date})", "", *_describe(machine, body)]
    if "smoke" in found:
        lines += ["", *_render_smoke(found["smoke"]["parts"])]
    if "speed" in found:
        lines += ["", *_render_speed(found["speed"]["parts"])]
    if runs:
        lines += ["", "## The ladder: `make gpu STAGE=ladder`", "", table.render_markdown(runs)]
    return date, "\n".join(lines) + "\n"


def _describe(machine: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[str]:
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    yield (
        f"{machine['card']}{memory}, {machine['cores']} cores; torch {machine['torch']}{cuda}, "
        f"transformers {machine['transformers']}, Python {machine['python']}; commit "
        f"{machine['commit'] or 'not known'}. One run of each part; docs/gpu.md says how to repeat "
        "it."
    )
    if body["rehearsed"]:
        yield ""
        yield "**A rehearsal with tiny models: no number here says anything about a GPU.**"


def _render_smoke(parts: Mapping[str, Any]) -> Iterator[str]:
    good = sum(map(is_good, parts.values()))
    yield "## What it computes, beside a CPU: `make gpu STAGE=smoke`"
    yield ""
    yield (
        f"{good} of {len(parts)} checks hold. Tiny models with random weights; differences in nats."
    )
    yield ""
    yield table.format_row(("check", "holds", "largest difference", "beside", "s"))
    yield table.format_row(["---"] * 5)
    for name, part in parts.items():
        result = part.get("result", {})
        beside = part.get("failed", "").strip().splitlines()[-1:] or [_tell_rest(result)]
        difference = _find_number(result)
        yield table.format_row(
            (
                name,
                "yes" if is_good(part) else "**no**",
                "" if difference is None else f"{difference:.1e}",
                beside[0].replace("|", "/")[:160],
                f"{part['seconds']:.1f}",
            )
        )


def _find_number(result: Mapping[str, Any]) -> float | None:
    own = [result[name] for name in NUMBERS if name in result]
    nested = [_find_number(value) for value in result.values() if isinstance(value, dict)]
    found: list[float] = [value for value in (*own, *nested) if value is not None]
    return max(found, default=None)


def _tell_rest(result: Mapping[str, Any]) -> str:
    kept = (bool, int, list)
    return ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in result.items()
        if name not in ("ok", *NUMBERS) and isinstance(value, kept) and value not in ([], ())
    )


SPEED_COLUMNS = (
    "case", "parameters", "batch", "rationale tokens", "positives", "step", "s per step",
    "tokens per s", "peak GiB", "utilisation", "QCRD ÷ DSS", "plain ÷ DSS, time",
)  # fmt: skip


def _render_speed(parts: Mapping[str, Any]) -> Iterator[str]:
    yield "## What a step costs: `make gpu STAGE=speed`"
    yield ""
    yield (
        "Random weights; every question has one negative, in force. Utilisation is of 989 dense "
        "bf16 TFLOP/s, with 6 operations a parameter and token, 4 where it is frozen, 2 where a "
        "candidate is only scored, attention's own products not counted. `plain`: DSS's targets as "
        "padded sequences through the model's own loss; its tokens are fewer or more than DSS's, "
        "so the two are compared in time on the same questions."
    )
    yield ""
    yield table.format_row(SPEED_COLUMNS)
    yield table.format_row(["---"] * len(SPEED_COLUMNS))
    for name, part in parts.items():
        yield from _render_case(name, part)


def _render_case(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    result = part.get("result", {})
    reason = part.get("failed", "").strip().splitlines()[-1:] or [result.get("skipped", "")]
    if reason[0]:
        yield table.format_row((name, reason[0].replace("|", "/")[:200], *[""] * 10))
        return
    case = result["case"]
    head = [
        name, f"{result['parameters'] / 1e9:.3g} B", str(case["batch"]),
        str(case["rationale_words"]), str(case["positives"]),
    ]  # fmt: skip
    for method in ("dss", "qcrd", "plain"):
        yield table.format_row([*head, method, *_format_rate(result[method], result, method)])


def _format_rate(rate: Mapping[str, Any], result: Mapping[str, Any], method: str) -> Sequence[str]:
    if "skipped" in rate:
        return (rate["skipped"].replace("|", "/")[:160], *[""] * 5)
    share = rate["utilisation"]
    ratio = result.get("qcrd_over_dss") if method == "qcrd" else None
    gain = result.get("plain_over_dss") if method == "dss" else None
    return (
        f"{rate['seconds']:.3f}",
        f"{rate['tokens_per_second']:,.0f}",
        table.format_cell(rate["peak_gib"], ".1f"),
        "" if share is None else f"{100 * share:.0f} %",
        table.format_cell(ratio, ".2f"),
        table.format_cell(gain, ".2f"),
    )
