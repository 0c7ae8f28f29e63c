"""What is answered: what may be asked for, what each needs, and what comes unasked."""

from typing import get_args

import pytest

from service.errors import Invalid
from service.types import Operation
from service.wire.options import Options
from service.wire.outputs import KNOWN, NEED_LABELS, check_outputs, choose_outputs


def chosen(
    operation: Operation, options: Options | None = None, *, labelled: bool = False, named: bool = False
) -> tuple[str, ...]:
    options = options or Options()
    check_outputs(operation, options, labelled=labelled)
    return choose_outputs(operation, options, labelled=labelled, named=named)


def refused(
    operation: Operation, options: Options, *, labelled: bool = False, named: bool = False
) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        chosen(operation, options, labelled=labelled, named=named)
    return caught.value.code, caught.value.offences[0].path


def test_the_defaults_are_the_contracts() -> None:
    assert chosen("softmax") == ("probabilities", "classes")
    assert chosen("loss", labelled=True) == ("loss", "losses", "count")
    assert chosen("predict") == ("probabilities", "classes")
    assert chosen("predict", labelled=True) == ("probabilities", "classes", "loss", "losses", "count")


def test_names_and_top_k_add_to_the_default() -> None:
    top = Options(top_k=2)
    assert chosen("softmax", top) == ("probabilities", "classes", "top_classes", "top_probabilities")
    assert chosen("softmax", named=True) == ("probabilities", "classes", "predicted_names")
    assert chosen("predict", top, named=True, labelled=True) == (
        "probabilities",
        "classes",
        "predicted_names",
        "top_classes",
        "top_probabilities",
        "top_names",
        "loss",
        "losses",
        "count",
    )
    assert chosen("loss", top, labelled=True)[3:] == ("top_classes", "top_probabilities")


def test_without_a_reduction_there_is_no_loss() -> None:
    none = Options(reduction="none")
    assert chosen("loss", none, labelled=True) == ("losses", "count")
    assert chosen("predict", none, labelled=True)[-2:] == ("losses", "count")
    asked = Options(reduction="none", outputs=("losses", "loss"))
    assert refused("loss", asked, labelled=True) == ("unknown_output", "outputs[1]")


@pytest.mark.parametrize("operation", get_args(Operation))
def test_every_known_output_may_be_asked_for_and_comes_alone(operation: Operation) -> None:
    for name in KNOWN[operation]:
        assert chosen(operation, Options(outputs=(name,), top_k=1), labelled=True, named=True) == (name,)


def test_what_is_asked_for_comes_in_that_order_and_nothing_else() -> None:
    outputs = ("entropy", "classes", "probabilities")
    assert chosen("softmax", Options(outputs=outputs, top_k=2), named=True) == outputs


@pytest.mark.parametrize(
    ("operation", "outputs", "path"),
    [
        ("softmax", (), "outputs"),
        ("softmax", ("probs",), "outputs[0]"),
        ("softmax", ("classes", "loss"), "outputs[1]"),
        ("softmax", ("classes", "classes"), "outputs[1]"),
        ("softmax", ("logits",), "outputs[0]"),
        ("loss", ("contributions",), "outputs[0]"),
        ("predict", ("x" * 10_000,), "outputs[0]"),
        ("predict", ("",), "outputs[0]"),
    ],
)
def test_empty_unknown_and_repeated_outputs_are_refused(
    operation: Operation, outputs: tuple[str, ...], path: str
) -> None:
    assert refused(operation, Options(outputs=outputs), labelled=True) == ("unknown_output", path)


def test_an_unknown_output_gets_a_guess() -> None:
    with pytest.raises(Invalid, match="did you mean 'probabilities'"):
        chosen("softmax", Options(outputs=("probabilites",)))


@pytest.mark.parametrize("name", ["top_classes", "top_probabilities", "top_names"])
def test_the_best_classes_need_top_k(name: str) -> None:
    assert refused("softmax", Options(outputs=(name,)), named=True) == ("top_k_range", "top_k")


@pytest.mark.parametrize("name", ["predicted_names", "top_names"])
def test_names_need_names(name: str) -> None:
    options = Options(outputs=("classes", name), top_k=1)
    assert refused("softmax", options) == ("unknown_output", "outputs[1]")


@pytest.mark.parametrize("name", sorted(NEED_LABELS))
def test_losses_need_labels(name: str) -> None:
    assert refused("predict", Options(outputs=("classes", name))) == ("missing_field", "labels")
    assert chosen("predict", Options(outputs=("classes", name)), labelled=True) == ("classes", name)
