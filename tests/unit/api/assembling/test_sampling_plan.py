from __future__ import annotations

from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest, group_by_prompt

ONE, OTHER = TeacherPrompt("what is one?"), TeacherPrompt("what is another?")


def list_drawn(requests: list[PromptRequest]) -> dict[SampleRequest, int]:
    """The seed of each sample, as a server counts on from the one that it is given."""
    return {
        sample: request.seed + place
        for request in requests
        for place, sample in enumerate(request.samples)
    }


def test_a_sample_is_drawn_alike_whatever_is_asked_for_with_it() -> None:
    samples = [SampleRequest(ONE, index) for index in range(6)]
    (whole,) = group_by_prompt(samples)
    alone = [PromptRequest((sample,)) for sample in samples]
    with_gaps = list(group_by_prompt(samples[place] for place in (1, 2, 4, 5)))
    assert list_drawn([whole]) == list_drawn(whole.split(4)) == list_drawn(alone)
    assert [request.samples for request in with_gaps] == [
        tuple(samples[1:3]),
        tuple(samples[4:]),
    ]
    assert list_drawn(with_gaps).items() <= list_drawn([whole]).items()


def test_prompts_have_seeds_of_their_own() -> None:
    one, other = group_by_prompt([SampleRequest(ONE, 0), SampleRequest(OTHER, 1)])
    assert (one.prompt, other.prompt) == (ONE, OTHER)
    assert abs(one.seed - other.seed) > 1
    assert max(one.seed, other.seed) < 2**32 - 1
