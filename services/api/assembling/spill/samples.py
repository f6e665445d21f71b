"""All samples that a job wants and the generations that there are of them, on disk.

A question's samples have slots: its place times `SLOTS`, and the number of the sample. Questions
with one prompt have the same samples, which are asked for once and are in the slots of both; in all
but the first they are twins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.teachers.prompt import PromptForm, TeacherPrompt
from services.api.assembling.generation_cache import Generation
from services.api.assembling.generation_index import shorten
from services.api.assembling.refusals import AskedQuestion, RowLocation
from services.api.assembling.sampling_plan import SampleRequest, count_samples
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.questions import Split, read_question

SLOTS = 1024
"""Above the most outputs of a question that a spec may want."""
KEYS_AT_ONCE = 500
"""Of a shard that are looked up in one query."""
KEPT_PROMPTS = 64
"""That were built last: the samples of a prompt are looked up one after another."""
FILES = {Split.TRAINING: "training_file", Split.TEST: "test_file"}


class SpilledSamples:
    """The samples that `spec` wants in prompts of one form, by their keys, for the job `job_id`.
    Replaces those of another form."""

    def __init__(
        self, database: SpillDatabase, spec: MethodSpec, form: PromptForm, job_id: str
    ) -> None:
        self._database = database
        self._spec = spec
        self._form = form
        self._job_id = job_id
        self._get_prompt = lru_cache(KEPT_PROMPTS)(self._build_prompt)
        self.found = 0
        """Distinct samples of which there is a generation."""
        self._set_counts()
        for place, count in self._iter_asked():
            self._fill(place, count)
        self._total = database.count("SELECT DISTINCT short, key FROM sample WHERE free = 0")

    def _set_counts(self) -> None:
        """Of each question the number of its samples; one of both files gets that of training."""
        for table in ("sample", "generation", "asked"):
            self._database.execute(f"DELETE FROM {table}")
        training, test = count_samples(self._spec.rationales)
        set_samples = "UPDATE question SET samples = ? WHERE split = ?"
        self._database.execute(set_samples, (training, Split.TRAINING))
        self._database.execute(
            f"{set_samples} AND id NOT IN (SELECT id FROM question WHERE split = ?)",
            (test, Split.TEST, Split.TRAINING),
        )

    def _fill(self, place: int, count: int) -> None:
        prompt = self._get_prompt(place)
        for sample in (SampleRequest(prompt, index) for index in range(count)):
            slot = place * SLOTS + sample.index
            self._add(sample.key, slot, free=False)
            if prompt.grammar:
                self._add(sample.free_key, slot, free=True)

    def _add(self, key: str, slot: int, *, free: bool) -> None:
        row = (_sign(shorten(key)), key, slot, free)
        self._database.execute("INSERT INTO sample VALUES (?, ?, ?, ?)", row)

    def _iter_asked(self) -> Iterator[tuple[int, int]]:
        """Place and number of samples of each question that has any, in order."""
        query = "SELECT place, samples FROM question WHERE samples > 0 ORDER BY place"
        yield from self._database.iterate(query)

    def _build_prompt(self, place: int) -> TeacherPrompt:
        question = read_question(self._database, place)
        limit = self._spec.rationales.max_new_tokens
        return build_teacher_prompt(self._spec.task, question, self._form, limit)

    # --- what is wanted ------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._total

    def __contains__(self, key: str) -> bool:
        return self._find_slot(key) is not None

    def get(self, key: str) -> SampleRequest | None:
        if (slot := self._find_slot(key)) is None:
            return None
        return SampleRequest(self._get_prompt(slot // SLOTS), slot % SLOTS)

    def __getitem__(self, key: str) -> SampleRequest:
        if (sample := self.get(key)) is None:
            raise KeyError(key)
        return sample

    def wants(self, key: str) -> bool:
        """Also of those that nothing held to a form."""
        query = "SELECT 1 FROM sample WHERE short = ? AND key = ?"
        return self._database.find(query, (_sign(shorten(key)), key)) is not None

    def has_any(self, shorts: NDArray[np.uint64]) -> bool:
        """Whether one of these keys, as an index has them, is wanted."""
        signed = shorts.astype(np.uint64).view(np.int64)
        for start in range(0, len(signed), KEYS_AT_ONCE):
            keys = signed[start : start + KEYS_AT_ONCE].tolist()
            marks = ",".join("?" * len(keys))
            query = f"SELECT 1 FROM sample WHERE short IN ({marks}) LIMIT 1"
            if self._database.find(query, keys) is not None:
                return True
        return False

    def _find_slot(self, key: str) -> int | None:
        """The first that has this sample."""
        query = "SELECT MIN(slot) FROM sample WHERE short = ? AND key = ? AND free = 0"
        (slot,) = self._database.find(query, (_sign(shorten(key)), key)) or (None,)
        return slot

    def find_asked(self, prompt: TeacherPrompt) -> AskedQuestion:
        """The question that has this prompt, which is one of these."""
        place = self._find_first_slot(prompt) // SLOTS
        query = "SELECT split, line, samples FROM question WHERE place = ?"
        split, line, samples = self._database.find(query, (place,)) or (0, 0, 0)
        return AskedQuestion(RowLocation(FILES[Split(split)], line), samples)

    def _find_first_slot(self, prompt: TeacherPrompt) -> int:
        slot = self._find_slot(SampleRequest(prompt, 0).key)
        assert slot is not None, "a prompt of another job"
        return slot

    def count_prompts(self) -> int:
        """Of all that are asked, each once."""
        first = f"free = 0 AND slot % {SLOTS} = 0"
        return self._database.count(f"SELECT DISTINCT short, key FROM sample WHERE {first}")

    # --- what there is -------------------------------------------------------------------------

    def keep(self, generations: Iterable[Generation]) -> None:
        """Those of samples that are wanted. One that nothing held to a form, as before there were
        grammars, is taken only where this job paid for it, and the sample itself is preferred."""
        query = "SELECT slot, free FROM sample WHERE short = ? AND key = ? ORDER BY slot"
        for one in generations:
            is_own = one.job_id == self._job_id
            slots = list(self._database.iterate(query, (_sign(shorten(one.key)), one.key)))
            for number, (slot, is_free) in enumerate(slots):
                if is_own or not is_free:
                    self._write(one, slot, is_own, is_twin=number > 0, is_free=bool(is_free))

    def _write(
        self, one: Generation, slot: int, is_own: bool, *, is_twin: bool, is_free: bool
    ) -> None:
        values = (
            slot,
            is_twin,
            is_own,
            one.prompt_tokens,
            one.completion_tokens,
            one.estimated,
            one.finish_reason,
            one.text,
        )
        row = "INTO generation VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        if self._database.execute(f"INSERT OR IGNORE {row}", values):
            self.found += not is_twin
        elif not is_free:
            self._database.execute(f"REPLACE {row}", values)

    def iter_missing(self) -> Iterator[SampleRequest]:
        """The samples of which there is none, in the order of their questions, each once."""
        query = "SELECT slot FROM generation WHERE slot BETWEEN ? AND ?"
        for place, count in self._iter_asked():
            first = place * SLOTS
            there = {slot for (slot,) in self._database.iterate(query, (first, first + count - 1))}
            for slot in range(first, first + count):
                if slot not in there:
                    sample = SampleRequest(self._get_prompt(place), slot - first)
                    if self._find_slot(sample.key) == slot:
                        yield sample

    def iter_test_samples(self) -> Iterator[SampleRequest]:
        """The first sample of each test question."""
        query = (
            "SELECT asked.place FROM question AS test JOIN question AS asked "
            "ON asked.id = test.id AND asked.samples > 0 WHERE test.split = ? ORDER BY test.place"
        )
        for (place,) in self._database.iterate(query, (Split.TEST,)):
            yield SampleRequest(self._get_prompt(place), 0)

    def iter_told_prompts(self) -> Iterator[tuple[TeacherPrompt, int]]:
        """Each prompt that a teacher counted, with its tokens. The others of an answer have none:
        the prompt was paid for once."""
        query = (
            f"SELECT slot / {SLOTS}, MAX(prompt) FROM generation "
            f"WHERE prompt > 0 AND estimated = 0 GROUP BY slot / {SLOTS}"
        )
        for place, tokens in self._database.iterate(query):
            yield self._get_prompt(place), tokens

    def find_told(self, prompt: TeacherPrompt) -> int | None:
        """The tokens of one of them."""
        first = self._find_first_slot(prompt)
        query = "SELECT MAX(prompt) FROM generation WHERE slot BETWEEN ? AND ? AND estimated = 0"
        (tokens,) = self._database.find(query, (first, first + SLOTS - 1)) or (None,)
        return tokens or None

    # --- what is out ---------------------------------------------------------------------------

    def mark_asked(self, keys: Iterable[str]) -> None:
        """They are asked by batch, and not to be asked for again while that is out."""
        self._database.execute_many(
            "INSERT OR IGNORE INTO asked VALUES (?)", ((key,) for key in keys)
        )

    def is_asked(self, key: str) -> bool:
        return self._database.find("SELECT 1 FROM asked WHERE key = ?", (key,)) is not None


def _sign(short: int) -> int:
    """64 bits as SQLite has them."""
    return short - (1 << 64) if short >> 63 else short
