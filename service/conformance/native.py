"""Plain JSON and npz: our native routes, and services as they are written by hand.

Which options a service reads and how deep its logits are nested is told by `Words`; bytes are `wire.native`'s.
"""

import httpx
import numpy as np
import orjson

from service.conformance.dialect import OUTPUTS, Dialect, Read, Request, as_rows, read_each, read_json
from service.conformance.vectors import Question
from service.wire import media, native


class Native(Dialect):
    """A JSON object or npz of fields, such as `logits`, answered as one of outputs: ours, and plain services'."""

    name = "native"
    forms = ("JSON", "npz")

    def cannot_say(self, question: Question) -> str:
        # No nesting has rows where there are none.
        if not self.binary and 0 in question.logits.shape[:-1]:
            return "JSON has no empty batch"
        return super().cannot_say(question)

    def write(self, question: Question) -> Request:
        operation = question.operation
        logits, labels, is_rows = as_rows(question, self.words.ranks.get(operation))
        if "dtype" not in self.words.options:  # else the codec names it of its own accord
            logits = logits.astype(np.float64)
        fields = {"logits": logits, "labels": labels, **self.options_said(question)}
        media_type = media.NPZ if self.binary else media.JSON
        sent = {self.words.theirs(name): value for name, value in fields.items()}
        body, query = native.encode_request(operation, sent, media_type)
        headers = {"content-type": media_type, "accept": media_type}
        path = "/" + self.words.targets[operation][0].removeprefix("/")
        return Request(path, body, headers, query, keeps_shape=not is_rows)

    def read(self, question: Question, response: httpx.Response) -> Read:
        if self.binary:
            return read_each({"": response.content}, lambda _, body: native.decode_result(body, media.NPZ))
        said, fault = read_json(response.content)
        if fault or not isinstance(said, dict):
            return {}, {"": fault or "no JSON object"}
        theirs = {name: self.words.theirs(name) for name in OUTPUTS[question.operation]}
        found = {name: said[key] for name, key in theirs.items() if key in said}
        return read_each(
            found, lambda name, value: native.decode_result(orjson.dumps({name: value}), media.JSON)
        )
