"""Controls of the negatives: what is pushed away is another question's, as likely as the own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from qcrd.method.training.negatives.sample_filter import SampledRationales
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale

CANDIDATES = 8
"""Other questions' samples, one of which takes a negative's place."""

ScorePairs = Callable[[Sequence[tuple[TrainingExample, Rationale]]], Sequence[float]]
"""Mean cross entropy, in nats per token, of each rationale as one of its question."""


def take_from_other_questions(
    examples: Sequence[TrainingExample],
    samples: SampledRationales,
    score_pairs: ScorePairs,
    salt: str,
) -> SampledRationales:
    """Each sample replaced by another question's: of `CANDIDATES` drawn from all, the one whose
    cross entropy under the own question is nearest to the replaced one's, so that the two differ
    in what they are about more than in how much eq. 7 makes of them; what is left of that is told
    with the iteration's quartiles of cross entropy. None where no other question has a sample."""
    everything = [(owner, sample) for owner, own in samples.items() for sample in own]
    draws: list[tuple[TrainingExample, list[Rationale]]] = []
    for example in examples:
        own = samples.get(example.id, ())
        for place, sample in enumerate(own):
            draw = random.Random(f"{salt}/{example.id}/{place}")
            anyone_s = draw.sample(everything, min(CANDIDATES + len(own), len(everything)))
            found = [other for owner, other in anyone_s if owner != example.id]
            if found:
                draws.append((example, [sample, *found[:CANDIDATES]]))
    scores = iter(score_pairs([(example, each) for example, drawn in draws for each in drawn]))
    taken: dict[str, tuple[Rationale, ...]] = {example.id: () for example in examples}
    for example, drawn in draws:
        own_ce, *other_ce = (next(scores) for _ in drawn)
        distances = [abs(ce - own_ce) for ce in other_ce]
        nearest = drawn[1 + distances.index(min(distances))]
        taken[example.id] += (_give_to(example, nearest),)
    return taken


def _give_to(example: TrainingExample, sample: Rationale) -> Rationale:
    """With an id of its own: a judge scores it as one of this question."""
    return sample.model_copy(
        update={"id": f"{sample.id}@{example.id}", "question_id": example.id, "answer": None}
    )
