"""Ids of rows: what is one, and where the first that is none stands."""

from typing import Any

import numpy as np
import pytest

from service.errors import MAX_OFFENCES, Invalid
from service.wire.row_ids import MAX_CHARACTERS, read_ids, read_row_ids


def refused(value: Any, rows: int) -> tuple[str, str, str]:
    with pytest.raises(Invalid) as caught:
        read_row_ids(value, rows)
    return caught.value.code, caught.value.offences[0].path, caught.value.message


def test_ids_are_given_or_asked_for() -> None:
    assert read_row_ids(True, 3) is True  # noqa: FBT003 - as it stands in the request
    assert read_row_ids(["a", "b"], 2) == ("a", "b")
    assert read_row_ids(np.array(["a", "b"]), 2) == ("a", "b")
    assert read_row_ids([], 0) == ()
    assert read_row_ids(np.array([], np.str_), 0) == ()


@pytest.mark.parametrize(
    "text", ["a", " ", "order 17", "Ü", "名", "{x}:*", "\N{PILE OF POO}", "x" * MAX_CHARACTERS]
)
def test_an_id_is_any_printable_text(text: str) -> None:
    assert read_row_ids([text], 1) == (text,)


@pytest.mark.parametrize(
    "text", ["", "\n", "a\tb", "\0", "\x7f", "\ud800", "\u202e", "x" * (MAX_CHARACTERS + 1)]
)
def test_what_is_no_id_is_named_by_its_place(text: str) -> None:
    code, path, message = refused(["a", text], 2)
    assert (code, path) == ("row_ids_value", "row_ids[1]")
    assert message.startswith("expected 1 to 200 printable characters, got ")
    message.encode()  # it can be sent


@pytest.mark.parametrize(
    "value", [False, 1, "a", None, {"a": 1}, np.array([1]), np.array([["a"]]), np.array("a")]
)
def test_what_is_no_list_of_strings_is_refused(value: Any) -> None:
    code, path, message = refused(value, 1)
    assert (code, path) == ("row_ids_type", "row_ids")
    assert message.startswith("expected a list of strings, got ")


@pytest.mark.parametrize(("value", "place"), [(["a", 1], 1), ([None], 0), (["a", "b", ["c"]], 2)])
def test_what_is_no_string_is_named_by_its_place(value: Any, place: int) -> None:
    assert refused(value, len(value))[:2] == ("row_ids_type", f"row_ids[{place}]")


def test_there_is_one_for_each_row_and_none_twice() -> None:
    assert refused(["a"], 2) == ("row_ids_shape", "row_ids", "expected 2 ids, one for each row, got 1")
    assert refused(["a", "b", "b"], 3) == (
        "row_ids_value",
        "row_ids[2]",
        "expected distinct ids, got 'b' again",
    )


def test_all_that_are_none_are_named_but_not_too_many() -> None:
    with pytest.raises(Invalid) as caught:
        read_ids([""] * 100, path="ids")
    assert [offence.path for offence in caught.value.offences] == [f"ids[{n}]" for n in range(MAX_OFFENCES)]


def test_ids_of_labels_may_come_twice() -> None:
    assert read_ids(["a", "a"], path="ids") == ["a", "a"]
