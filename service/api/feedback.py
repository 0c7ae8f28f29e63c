"""Delayed labels: `POST /feedback` joins them to the rows that wait for them."""

from functools import partial

from service.api.exchange import Answer, Exchange
from service.api.transport import PROBLEM_TYPE, Route
from service.feedback.joining import Outcomes
from service.feedback.keeping import Feedback, feedback_off
from service.outcomes import Deliver, Gone, awaited
from service.wire import encodings, feedback, schemas
from service.wire.limits import Limits
from service.wire.media import JSON

PATH = "/feedback"

_FAULTS = {
    "400": "The body cannot be read",
    "413": "The request is over a limit",
    "415": "The media type or encoding is not read",
    "422": "The values break the contract; nothing was joined",
    "503": "The rows cannot be reached",
    "504": "The time allowed has passed",
}


class FeedbackRoute:
    """`rows` is None where none are kept."""

    def __init__(self, rows: Feedback | None, limits: Limits) -> None:
        self._rows = rows
        self._limits = limits

    def routes(self) -> list[Route]:
        problem = {"content": {PROBLEM_TYPE: {"schema": schemas.PROBLEM}}}
        described = {
            "tags": ["scoring"],
            "summary": "Labels of rows that were scored before",
            "description": "Joins labels to the rows that were predicted with row_ids.",
            "operationId": "feedback",
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": feedback.BODY, "example": feedback.EXAMPLE}},
            },
            "responses": {
                "200": {
                    "description": "What became of each id",
                    "content": {JSON: {"schema": feedback.ANSWER}},
                },
                **{status: {"description": fault} | problem for status, fault in _FAULTS.items()},
            },
        }
        return [Route("POST", PATH, "feedback", self.join, described)]

    async def join(self, exchange: Exchange) -> Answer:
        rows = self._rows
        if rows is None:
            raise feedback_off("ids")
        feedback.check_media(exchange.header(b"content-type") or "")
        body = await exchange.body()
        encoding = exchange.header(b"content-encoding") or ""

        def begin(deliver: Deliver[Outcomes], _gone: Gone) -> None:
            read = partial(self._read, body, encoding)
            rows.join(read, exchange.deadline_s, deliver)

        outcomes = await awaited(begin)
        others = {name: getattr(outcomes, name) for name in feedback.OTHERWISE}
        return Answer(feedback.encode(outcomes.joined, others), JSON)

    def _read(self, body: bytes, encoding: str) -> feedback.Labelled:
        limits = self._limits
        if encoding:
            body = encodings.decompress(body, encoding, limits.body_bytes)
        return feedback.decode(body, limits)
