"""Ask a server everything, and judge what it says: what holds, what does not, what it has no words for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from service.conformance.dialect import NO_ROUTE, Dialect
from service.conformance.judge import OK, REFUSALS, Answer, Verdict, judge, judge_refusal
from service.conformance.vectors import Operation, Question

REFUSAL = "refusal"
State: TypeAlias = Literal["held", "inexact", "broken", "not expressible"]
Watch: TypeAlias = Callable[[int], None]


class Check(NamedTuple):
    """One output of one question, or its refusal; `why` says what came instead, or why it was not asked.

    What is inexact is as near as the common libraries come, and not as the contract wants.
    """

    question: Question
    output: str
    state: State
    ulp: float | None
    why: str


class _Asked(NamedTuple):
    """A question with what came of it, and why some of its outputs were not asked for."""

    question: Question
    answers: tuple[Answer, ...]
    unasked: dict[str, str]


def examine(dialect: Dialect, questions: Sequence[Question], watch: Watch | None = None) -> list[Check]:
    """Ask all questions; `watch` is told how many have been answered."""
    asked = []
    for number, question in enumerate(questions):
        asked.append(_ask(dialect, question))
        if watch:
            watch(number + 1)
    # What a server never answered it has no word for; what it left out once, it left out.
    answered: dict[Operation, set[str]] = {"softmax": set(), "loss": set()}
    for one in asked:
        for answer in one.answers:
            answered[one.question.operation] |= answer.outputs.keys() | answer.faults.keys()
    claims = "outputs" in dialect.words.options
    return [
        _missing(check) if not claims and _is_missing(check, answered) else check
        for one in asked
        for check in _checks(one)
    ]


def _ask(dialect: Dialect, question: Question) -> _Asked:
    outputs = tuple(question.expected) or (REFUSAL,)
    unsayable = dialect.cannot_say(question)
    unasked = dict.fromkeys(outputs, unsayable) if unsayable else {}
    for output in outputs:
        if missing := question.options_of(output) - dialect.words.options:
            unasked.setdefault(output, f"no word for {', '.join(sorted(missing))}")
        if output in dialect.unspeakable:
            unasked.setdefault(output, f"the protocol has no place for the {output}")
    if len(unasked) == len(outputs):
        return _Asked(question, (), unasked)
    answers = []
    for answer in dialect.ask(question):
        answers.append(answer)
        # One way of spelling what is no number will do for an answer; an error must come in each of them.
        if answer.status == OK and not question.refusal:
            break
    return _Asked(question, tuple(answers), unasked)


def _checks(asked: _Asked) -> Iterator[Check]:
    question, answers, unasked = asked
    for output, reason in unasked.items():
        yield Check(question, output, "not expressible", None, reason)
    if not answers:
        return
    answer = next((one for one in answers if one.status == OK), answers[0])
    if answer.status in NO_ROUTE:
        for output in tuple(question.expected) or (REFUSAL,):
            if output not in unasked:
                reason = f"the server answers {answer.status} to a {question.operation}"
                yield Check(question, output, "not expressible", None, reason)
    elif question.refusal:
        yield _check(question, REFUSAL, _refusal(question, answers))
    else:
        for output in question.expected.keys() - unasked.keys():
            yield _check(question, output, judge(question, output, answer))


def _refusal(question: Question, answers: Sequence[Answer]) -> Verdict:
    """Judge the worst of the spellings: one that is answered; else the first that is refused for its values.

    A server need not know every spelling, and only of the first can it know what is wrong with the value.
    """
    told = [one for one in answers if one.status == OK] or [one for one in answers if one.status in REFUSALS]
    answer = (told or answers)[0]
    return judge_refusal(question, answer, by_code=answer is answers[0])


def _check(question: Question, output: str, verdict: Verdict) -> Check:
    state: State = "held" if verdict.held else "inexact" if verdict.near else "broken"
    return Check(question, output, state, verdict.ulp, verdict.instead)


def _is_missing(check: Check, answered: dict[Operation, set[str]]) -> bool:
    names = answered[check.question.operation]
    return (
        check.state != "not expressible"
        and check.output != REFUSAL
        and bool(names)
        and check.output not in names
    )


def _missing(check: Check) -> Check:
    return check._replace(state="not expressible", ulp=None, why=f"the server answers no {check.output}")
