"""What a course says of the heads that were asked together."""

import numpy as np

from service.api.course import Course
from service.types import HeadInfo, ScoreRequest, ScoreResult

FLOAT32 = np.dtype(np.float32)


def head(model: str, version: str) -> HeadInfo:
    return HeadInfo(model, version, 4, 3, FLOAT32, None, "d" * 64, "cpu")


def request(info: HeadInfo | None) -> ScoreRequest:
    return ScoreRequest(
        "softmax" if info is None else "predict", np.zeros((2, 3)), 1, FLOAT32, ("classes",), head=info
    )


def test_one_head_has_its_name_and_version() -> None:
    info = head("digits", "3")
    course = Course((request(info),), (ScoreResult({}, 2, info, 5),), (1.0, 2.0, 3.0, 4.0, 5.0))
    assert (course.model, course.version, course.rows, course.batch_rows) == ("digits", "3", 2, 5)


def test_several_heads_stand_in_the_order_in_which_they_were_asked() -> None:
    heads = head("b", "2"), head("a", "1")
    results = tuple(ScoreResult({}, 7, info, rows) for info, rows in zip(heads, (7, 9), strict=True))
    course = Course(tuple(map(request, heads)), results, (1.0,))
    assert (course.model, course.version) == ("b,a", "2,1")
    # All are asked about the same rows.
    assert (course.rows, course.batch_rows) == (7, 9)


def test_bare_logits_are_named_by_what_was_asked_of_them() -> None:
    course = Course((request(None),), (ScoreResult({}, 2, None, 2),), (1.0,))
    assert (course.model, course.version) == ("softmax", "")


def test_what_failed_has_no_rows() -> None:
    course = Course((request(head("digits", "3")),), (), (1.0, 2.0))
    assert (course.model, course.rows, course.batch_rows) == ("digits", 0, 0)
