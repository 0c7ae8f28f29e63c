"""How large one request may be."""

import pytest

from service.errors import Invalid, Malformed, TooLarge
from service.wire.limits import (
    MAX_RANK,
    Limits,
    body_too_large,
    check_elements,
    check_rows,
    nested_too_deep,
)

LIMITS = Limits(body_bytes=1000, rows=10, elements=24, json_depth=8)


@pytest.mark.parametrize("shape", [(), (24,), (2, 3, 4), (0, 24), (24, 0), (0,), (1,) * MAX_RANK])
def test_shapes_within_the_limit_pass(shape: tuple[int, ...]) -> None:
    check_elements(shape, LIMITS, path="logits")


@pytest.mark.parametrize("shape", [(25,), (5, 5), (1, 25), (0, 25), (25, 0, 3), (10**18, 10**18)])
def test_shapes_over_the_limit_are_refused_by_the_settings_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(TooLarge) as caught:
        check_elements(shape, LIMITS, path="logits")
    assert caught.value.code == "elements_too_many"
    assert caught.value.offences[0].path == "logits"
    assert "24" in caught.value.message
    assert "LOGITSERVE_ELEMENTS_LIMIT" in caught.value.message


def test_an_empty_axis_does_not_hide_a_long_one() -> None:
    with pytest.raises(TooLarge):
        check_elements((0, 10**12), LIMITS, path="logits")


def test_more_axes_than_an_array_can_have_are_refused() -> None:
    with pytest.raises(Invalid) as caught:
        check_elements((1,) * (MAX_RANK + 1), LIMITS, path="labels")
    assert caught.value.code == "rank"
    assert caught.value.offences[0].path == "labels"


def test_rows_up_to_the_limit_pass_and_one_more_does_not() -> None:
    check_rows(10, LIMITS, path="logits")
    with pytest.raises(TooLarge) as caught:
        check_rows(11, LIMITS, path="logits")
    assert caught.value.code == "rows_too_many"
    assert "LOGITSERVE_ROWS_LIMIT" in caught.value.message
    assert "11" in caught.value.message


def test_a_body_over_the_limit_names_the_setting() -> None:
    error = body_too_large(1000)
    assert (error.status, error.code) == (413, "body_too_large")
    assert "1000 bytes" in error.message
    assert "LOGITSERVE_BODY_LIMIT_BYTES" in error.message


def test_nesting_over_the_limit_names_the_setting() -> None:
    error = nested_too_deep(8)
    assert isinstance(error, Malformed)
    assert error.code == "malformed_json"
    assert "LOGITSERVE_JSON_DEPTH_LIMIT" in error.message
