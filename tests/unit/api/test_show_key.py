"""`qcrd key` of the gateway's image prints a key that the gateway takes."""

from __future__ import annotations

import pytest

from services.api.show_key import main


def test_the_first_key_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QCRD_API_KEYS", "first,second")
    main(["key"])
    assert capsys.readouterr().out == "first\n"


def test_without_a_key_and_for_other_commands_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("QCRD_API_KEYS", raising=False)
    with pytest.raises(SystemExit, match="QCRD_API_KEYS is not set here"):
        main(["key"])
    with pytest.raises(SystemExit, match="install qcrd where you work"):
        main(["jobs", "list"])
