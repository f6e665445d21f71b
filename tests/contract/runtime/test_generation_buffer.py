from __future__ import annotations

from qcrd.runtime.redis.generation_buffer import Ledger


def test_everything_added_is_there_until_it_is_cleared(ledger: Ledger) -> None:
    for index in range(5):
        ledger.add("set", f"q:{index}", f"output {index}\nüñ")
    ledger.add("set", "q:0", "again")
    ledger.add("other", "q:0", "not ours")
    assert ledger.all("set") == {
        "q:0": "again",
        **{f"q:{index}": f"output {index}\nüñ" for index in range(1, 5)},
    }
    ledger.clear("set", ["q:0", "q:4", "never added"])
    assert set(ledger.all("set")) == {"q:1", "q:2", "q:3"}
    assert ledger.all("other") == {"q:0": "not ours"}


def test_an_unknown_set_is_empty(ledger: Ledger) -> None:
    assert ledger.all("nothing") == {}
    ledger.clear("nothing", [])
    ledger.clear("nothing", ["field"])
