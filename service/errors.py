"""Everything that can go wrong, drawn as a tree.

    LogitserveError
    ├── StartError                    the command cannot start; one line says what to do
    ├── ModelError                    a model version cannot be loaded; the text is its reason
    └── RequestError                  a request cannot be answered; carries status, code and offences
        ├── Malformed            400  bytes that do not parse
        ├── Unauthenticated      401  no key, or one that is not known
        ├── Forbidden            403  the key does not reach so far
        ├── NotFound             404  no such route, model or version
        ├── MethodNotAllowed     405
        ├── NotAcceptable        406  no media type that the caller accepts
        ├── TooLarge             413  over a limit; the limit is named
        ├── UnsupportedMedia     415  a media type or encoding that is not read
        ├── Invalid              422  it parses, but the values break the contract
        ├── QueueFull            429  too much waits already; Retry-After says when to come again
        ├── Unforeseen           500  a fault of ours; the caller gets one fixed sentence
        ├── NotReady             503  starting, draining, no version is ready, or no room for feedback
        └── DeadlineExceeded     504  the time allowed passed before the work was done

Statuses are plain integers: this module knows no web framework. `api.transport` is the one place
where an error becomes an answer.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

# RFC 9457 answers list at most this many offences: enough to mend a batch, too few to echo one.
MAX_OFFENCES = 16


class Offence(NamedTuple):
    """One place in the request (`logits[2][0]`) and what was expected and came there."""

    path: str
    message: str


class LogitserveError(Exception):
    """The root of every error raised on purpose; any other exception is a bug to report."""


class StartError(LogitserveError):
    """The command cannot start; the text says what is wrong and what to do, in one line."""


class ModelError(LogitserveError):
    """A model version cannot be loaded; the text is the reason that `/models` shows."""


class RequestError(LogitserveError):
    """A request cannot be answered.

    Parameters
    ----------
    code : str
        The stable code, one of the class's `titles`.
    message : str
        What was expected and what came, for the person who sent it.
    path : str
        Where in the request; empty where the whole request is meant.
    offences : sequence of Offence
        Several places at once, in place of `path`; at most `MAX_OFFENCES` are kept.
    headers : mapping of str to str
        Headers the answer must carry, such as `Allow` or `Retry-After`.
    """

    status: ClassVar[int]
    titles: ClassVar[dict[str, str]]

    def __init__(
        self,
        code: str,
        message: str,
        *,
        path: str = "",
        offences: Sequence[Offence] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.offences = tuple(offences)[:MAX_OFFENCES] or ((Offence(path, message),) if path else ())
        self.headers = headers or {}
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        return self.titles[self.code]

    @property
    def detail(self) -> str:
        """The message with the first offender's path before it."""
        return f"{self.offences[0].path}: {self.message}" if self.offences else self.message


class Malformed(RequestError):
    status = 400
    titles: ClassVar = {
        "malformed_json": "The body is not valid JSON",
        "malformed_csv": "The body is not valid CSV",
        "malformed_npy": "The body is not a valid npy array",
        "malformed_npz": "The body is not a valid npz archive",
        "malformed_protobuf": "The message is not valid protobuf",
        "malformed_tensor": "A binary tensor does not match its description",
        "malformed_encoding": "The body does not decompress as its Content-Encoding says",
    }


class Unauthenticated(RequestError):
    status = 401
    titles: ClassVar = {"unauthenticated": "A valid key is needed"}


class Forbidden(RequestError):
    status = 403
    titles: ClassVar = {"forbidden": "This is not allowed"}


class NotFound(RequestError):
    status = 404
    titles: ClassVar = {
        "unknown_route": "There is no such route",
        "unknown_model": "There is no such model",
        "unknown_version": "There is no such version of the model",
    }


class MethodNotAllowed(RequestError):
    status = 405
    titles: ClassVar = {"method_not_allowed": "The route does not answer this method"}


class NotAcceptable(RequestError):
    status = 406
    titles: ClassVar = {"not_acceptable": "No media type of the answer is accepted"}


class TooLarge(RequestError):
    status = 413
    titles: ClassVar = {
        "body_too_large": "The body is over the limit",
        "rows_too_many": "There are more rows than one request may have",
        "elements_too_many": "There are more numbers than one request may have",
    }


class UnsupportedMedia(RequestError):
    status = 415
    titles: ClassVar = {
        "unsupported_media_type": "The body's media type is not read here",
        "unsupported_encoding": "The body's Content-Encoding is not read here",
    }


class Invalid(RequestError):
    status = 422
    titles: ClassVar = {
        "body_type": "The body is no JSON object",
        "unknown_field": "A field is unknown",
        "missing_field": "A field is missing",
        "option_type": "An option has the wrong type",
        "unknown_option_value": "An option has a value that is not known",
        "unknown_output": "An output is unknown, repeated, or the list is empty",
        "unknown_reduction": "The reduction is unknown",
        "rank": "There is no class axis",
        "ragged": "The nesting is uneven",
        "logits_type": "The logits are not all numbers",
        "axis_range": "The axis is out of range",
        "no_classes": "There are no classes",
        "top_k_range": "top_k is out of range",
        "non_finite_logits": "A logit is NaN or +infinity",
        "float32_overflow": "A number is finite but infinite in float32",
        "row_all_masked": "Every class of a row is masked",
        "features_shape": "The features do not fit the head",
        "features_type": "The features are not all numbers",
        "non_finite_features": "A feature is not finite",
        "labels_shape": "The labels do not fit the logits",
        "labels_type": "The labels are of the wrong type",
        "label_out_of_range": "A label is out of range",
        "non_finite_labels": "A label is not finite",
        "labels_distribution": "A row of labels is no distribution",
        "unknown_class_name": "A class name is unknown",
        "class_names_shape": "There are not as many class names as classes",
        "class_names_value": "Class names repeat",
        "class_weight_shape": "There are not as many class weights as classes",
        "class_weight_value": "A class weight is negative or not finite",
        "sample_weight_shape": "There are not as many sample weights as examples",
        "sample_weight_value": "A sample weight is negative or not finite",
        "decision_type": "A rule of the decision has the wrong type",
        "decision_shape": "A rule of the decision does not fit the classes",
        "decision_value": "A rule of the decision cannot hold",
        "label_smoothing_range": "label_smoothing is outside [0, 1]",
        "ignore_index_with_dense": "ignore_index needs index labels",
        "temperature_range": "The temperature is not a finite number above 0",
        "infinite_loss": "A loss is infinite",
        "not_linear": "The head is not linear",
        "not_loadable": "A version cannot be loaded",
        "feedback_off": "Rows are not kept for their labels",
        "row_ids_type": "The row ids are not a list of strings",
        "row_ids_shape": "There are not as many row ids as rows, or as labels",
        "row_ids_value": "A row id is empty, too long, not printable or repeated",
    }


class QueueFull(RequestError):
    status = 429
    titles: ClassVar = {"queue_full": "Too many rows are waiting"}


class Unforeseen(RequestError):
    status = 500
    titles: ClassVar = {"internal": "The service failed"}


class NotReady(RequestError):
    status = 503
    titles: ClassVar = {
        "not_ready": "The service is not ready",
        "feedback_unavailable": "Rows cannot be kept for their labels now",
    }


class DeadlineExceeded(RequestError):
    status = 504
    titles: ClassVar = {"deadline": "The time allowed for the request has passed"}
