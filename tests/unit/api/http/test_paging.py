"""Pages of listings by id."""

from __future__ import annotations

import pytest

from qcrd.errors import Invalid
from services.api.http.paging import skip_through, take_found


def test_a_page_goes_on_behind_the_one_that_is_named() -> None:
    assert skip_through("abc", None, "file", str) == "abc"
    assert skip_through("abc", "a", "file", str) == "bc"
    assert skip_through("abc", "c", "file", str) == ""
    with pytest.raises(Invalid, match="there is no file 'x'") as caught:
        skip_through("abc", "x", "file", str)
    assert caught.value.param == "after"


def test_what_was_deleted_meanwhile_takes_no_place_on_the_page() -> None:
    stored = {"a": 1, "c": 3, "d": 4}
    assert take_found("abcd", 2, stored.get) == ([1, 3], True)
    assert take_found("abcd", 3, stored.get) == ([1, 3, 4], False)
    assert take_found("", 3, stored.get) == ([], False)
