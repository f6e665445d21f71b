from __future__ import annotations

from qcrd.runtime.redis.generation_buffer import AccountUpdate, GenerationBuffer


def test_everything_added_is_there_until_it_is_cleared(ledger: GenerationBuffer) -> None:
    for index in range(5):
        ledger.add("set", {f"q:{index}": f"output {index}\nüñ"})
    ledger.add("set", {"q:0": "again"})
    ledger.add("other", {"q:0": "not ours"})
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


def test_an_account_changes_with_the_output_that_it_pays_for(ledger: GenerationBuffer) -> None:
    assert ledger.read_account("job") == {}
    ledger.update_account(
        AccountUpdate("job", {"open:1:1": "[5, 10, 0]", "open:1:2": "[6, 10, 0]"})
    )
    settled = AccountUpdate("job", {"spent:1": "[5, 7, 0]"}, ("open:1:1", "never there"))
    for _ in range(2):  # a lost reply sends it again
        ledger.add("set", {"q:0": "output"}, settled)
    assert ledger.read_all("set") == {"q:0": "output"}
    assert ledger.read_account("job") == {"spent:1": "[5, 7, 0]", "open:1:2": "[6, 10, 0]"}
    ledger.update_account(AccountUpdate("job", removed=("spent:1", "open:1:2")))
    assert ledger.read_account("job") == {}
    assert ledger.read_account("other") == {}
