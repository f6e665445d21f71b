"""Which copy of the model a prompt goes to."""

from __future__ import annotations

from contextlib import ExitStack

from services.teacher.engines.copies import Copy, choose_copy, share_slots


def test_slots_are_shared_out_and_no_copy_is_without_one() -> None:
    assert share_slots(8, 3) == [3, 3, 2]
    assert share_slots(2, 4) == [1, 1]


def test_a_prompt_stays_where_it_is_read_until_the_slots_there_are_taken() -> None:
    copies = [Copy(2), Copy(2)]
    first, second = copies
    with ExitStack() as open_requests:
        places = []
        for prompt in ("a", "a", "a", "b", "c"):
            chosen = choose_copy(copies, prompt)
            places.append(copies.index(chosen))
            open_requests.enter_context(chosen.track_request(prompt))
        assert places == [0, 0, 1, 1, 0]
        assert first.has_open("a")
        assert second.has_open("b")
    assert [one.open_requests for one in copies] == [0, 0]
    assert not first.has_open("a")
