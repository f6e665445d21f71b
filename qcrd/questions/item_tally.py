"""Counts over the items of a rationale set, taken one after another in constant memory."""

from __future__ import annotations

from collections import Counter

from qcrd.records.rationales import RationaleCounts, RationaleItem, RationaleLengths


class ItemTally:
    """What the items that were added so far are."""

    def __init__(self) -> None:
        self.unlabelled = 0
        """Items that nothing can be trained on."""
        self._totals = Counter[str]()
        self._words = Counter[int]()
        """Positive rationales by their words."""

    def add(self, item: RationaleItem) -> None:
        """Count one vote. A tie counts only as a tie: its winner was drawn at random."""
        parsed = sum(item.vote.counts.values())
        self._totals += Counter(
            questions=1,
            outputs=parsed + item.vote.unparseable,
            parsed=parsed,
            unparseable=item.vote.unparseable,
            ties=int(item.vote.tie),
            positives=len(item.positives),
            negatives=len(item.negatives),
        )
        if item.gold is not None and item.vote.answer is not None and not item.vote.tie:
            is_right = item.vote.answer == item.gold
            self._totals["majority_right" if is_right else "majority_wrong"] += 1
        self.unlabelled += item.label is None
        self._words.update(len(each.text.split()) for each in item.positives)

    def make_counts(self, *, reused: int) -> RationaleCounts:
        names = (
            "questions",
            "outputs",
            "parsed",
            "unparseable",
            "majority_right",
            "majority_wrong",
            "ties",
            "positives",
            "negatives",
        )
        return RationaleCounts(**{name: self._totals[name] for name in names}, reused=reused)

    def measure_lengths(self) -> RationaleLengths | None:
        """None without any positive."""
        total = self._words.total()
        if not total:
            return None
        return RationaleLengths(
            median=self._find_rank(total // 2),
            p90=self._find_rank(total * 9 // 10),
            longest=max(self._words),
        )

    def _find_rank(self, rank: int) -> int:
        """The words of the rationale with so many shorter ones before it."""
        before = 0
        for words in sorted(self._words):
            before += self._words[words]
            if before > rank:
                return words
        raise IndexError(rank)
