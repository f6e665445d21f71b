"""The result file of a job: its steps as CSV, as OpenAI's clients look for them.

Written when the job is archived, out of its events, which have every so many steps. Repeating it
writes the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from typing import Any

from qcrd.records.job import DataSummary, Event, Job, StoredFile
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, write_record

PURPOSE = "fine-tune-results"
FILENAME = "step_metrics.csv"
COLUMNS = ("method", "step", "iteration", "loss", "learning_rate", "validation_accuracy")
"""The last one in the rows of finished iterations, which have no loss."""


def get_result_file_id(job_id: str) -> str:
    return f"file-{keys.digest('result', job_id)}"


def write_result_file(store: Store, job: Job, events: Iterable[Event]) -> None:
    """Nothing for a job that took no step."""
    rows = collect_rows(events)
    if not rows:
        return
    content, file_id = _dump(rows), get_result_file_id(job.id)
    created_at = job.finished_at or job.created_at
    store.put(keys.file_key(file_id), content)
    store.put(keys.file_time_key(file_id, created_at), b"")
    described = StoredFile(
        id=file_id,
        filename=FILENAME,
        purpose=PURPOSE,
        bytes=len(content),
        created_at=created_at,
        sha256=hashlib.sha256(content).hexdigest(),
        lines=len(rows),
        blob=keys.file_key(file_id),
        owner=job.owner,
        data=DataSummary(format="csv", columns=COLUMNS),
    )
    write_record(store, keys.file_meta_key(file_id), described)


def collect_rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """In the order of the events. A step that was done again after a crash is as it was then."""
    rows = dict[tuple[Any, ...], dict[str, Any]]()
    for event in events:
        data = event.data
        if "step" in data and "loss" in data:
            rows[data.get("method"), "step", data["step"]] = {
                name: data.get(name) for name in COLUMNS[:-1]
            }
        elif "validation" in data and "iteration" in data:
            rows[data.get("method"), "iteration", data["iteration"]] = {
                "method": data.get("method"),
                "iteration": data["iteration"],
                "validation_accuracy": data["validation"],
            }
    return list(rows.values())


def _dump(rows: Iterable[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def delete_result_file(store: Store, job_id: str) -> None:
    for key in sorted(store.list(keys.file_prefix(get_result_file_id(job_id))), reverse=True):
        store.delete(key)
