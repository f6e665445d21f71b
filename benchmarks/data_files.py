"""How fast data files are read as questions, against the bare parser of their format.

    python -m benchmarks.data_files [--rows 100000] [--rounds 5] [--json FILE]

Each file has the same questions, about 200 bytes a row. Ours checks every row, finds repeats by the
folded text, and makes questions; the peer is the standard library's parser, or pyarrow's, alone.
Rounds of both alternate in one process; the ratio is that of each round, its interval the range of
all rounds.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from qcrd.questions.field_map import FieldMap
from qcrd.questions.rows import read_rows

Rows = list[dict[str, Any]]
FIELDS: FieldMap = {"question": "{premise}\n{hypothesis}", "label": "gold"}


def make_rows(count: int) -> Rows:
    return [
        {"question": f"{n}: {'what is it that swims in a river ' * 5}?", "label": f"fish {n % 7}"}
        for n in range(count)
    ]


def make_chats(rows: Rows) -> Rows:
    return [
        {
            "messages": [
                {"role": "system", "content": "Name it."},
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["label"]},
            ]
        }
        for row in rows
    ]


def make_pairs(rows: Rows) -> Rows:
    return [
        {"premise": row["question"], "hypothesis": "It swims.", "gold": n % 3, "uid": n}
        for n, row in enumerate(rows)
    ]


def dump_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def dump_table(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def dump_parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def parse_lines(data: bytes) -> Iterable[Any]:
    return map(json.loads, io.BytesIO(data))


def parse_table(data: bytes, delimiter: str = ",") -> Iterable[Any]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    return csv.DictReader(text, delimiter=delimiter)


def parse_parquet(data: bytes) -> Iterable[Any]:
    rows: list[Any] = parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


Peer = Callable[[bytes], Iterable[Any]]


def list_cases(count: int) -> dict[str, tuple[bytes, Peer, FieldMap | None]]:
    rows = make_rows(count)
    return {
        "JSON lines": (dump_lines(rows), parse_lines, None),
        "JSON array": (json.dumps(rows).encode(), json.loads, None),
        "CSV": (dump_table(rows, ","), parse_table, None),
        "TSV": (dump_table(rows, "\t"), lambda data: parse_table(data, "\t"), None),
        "Parquet": (dump_parquet(rows), parse_parquet, None),
        "OpenAI's chats": (dump_lines(make_chats(rows)), parse_lines, None),
        "columns joined": (dump_lines(make_pairs(rows)), parse_lines, FIELDS),
    }


def time_rows(read: Callable[[], Iterable[Any]]) -> tuple[float, int]:
    started = time.perf_counter()
    count = sum(1 for _ in read())
    return time.perf_counter() - started, count


def measure(count: int, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (data, peer, fields) in list_cases(count).items():
        ours, bare, ratios = [], [], []
        for _ in range(rounds):
            mine, found = time_rows(lambda d=data, f=fields: read_rows(io.BytesIO(d), f))
            its, _ = time_rows(lambda d=data, p=peer: p(d))
            if found != count:
                raise RuntimeError(f"{name}: {found} of {count} rows")
            ours.append(count / mine)
            bare.append(count / its)
            ratios.append(its / mine)
        results[name] = {
            "rows_per_second": round(statistics.median(ours)),
            "peer_rows_per_second": round(statistics.median(bare)),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "bytes": len(data),
        }
    return {"rows": count, "rounds": rounds, "machine": platform.processor(), "cases": results}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_files", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    result = measure(given.rows, given.rounds)
    for name, case in result["cases"].items():
        low, high = case["ratio_range"]
        print(
            f"{name:<16}{case['rows_per_second']:>9,} rows/s, the parser alone "
            f"{case['peer_rows_per_second']:>9,}: {case['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
