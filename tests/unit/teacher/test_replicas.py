"""Which copy of the model a prompt goes to."""

from __future__ import annotations

from contextlib import ExitStack

from services.teacher.engines.llama_cpp.replica import choose_replica, make_replicas


def test_slots_are_shared_out_and_no_copy_is_without_one() -> None:
    assert [one.slots for one in make_replicas(3, 8)] == [3, 3, 2]
    assert [one.slots for one in make_replicas(4, 2)] == [1, 1]


def test_a_prompt_stays_where_it_is_read_until_the_slots_there_are_taken() -> None:
    replicas = make_replicas(2, 4)
    first, second = replicas
    with ExitStack() as open_requests:
        places = []
        for prompt in ("a", "a", "a", "b", "c"):
            chosen = choose_replica(replicas, prompt)
            places.append(replicas.index(chosen))
            open_requests.enter_context(chosen.track_request(prompt))
        assert places == [0, 0, 1, 1, 0]
        assert first.has_open("a")
        assert second.has_open("b")
    assert [one.open_requests for one in replicas] == [0, 0]
    assert not first.has_open("a")
