from __future__ import annotations

from qcrd.runtime.redis.generation_buffer import GenerationBuffer


def test_everything_added_is_there_until_it_is_cleared(ledger: GenerationBuffer) -> None:
    for index in range(5):
        ledger.add("set", f"q:{index}", f"output {index}\nüñ")
    ledger.add("set", "q:0", "again")
    ledger.add("other", "q:0", "not ours")
    assert ledger.read_all("set") == {
        "q:0": "again",
        **{f"q:{index}": f"output {index}\nüñ" for index in range(1, 5)},
    }
    ledger.remove("set", ["q:0", "q:4", "never added"])
    assert set(ledger.read_all("set")) == {"q:1", "q:2", "q:3"}
    assert ledger.read_all("other") == {"q:0": "not ours"}


def test_an_unknown_set_is_empty(ledger: GenerationBuffer) -> None:
    assert ledger.read_all("nothing") == {}
    ledger.remove("nothing", [])
    ledger.remove("nothing", ["field"])
