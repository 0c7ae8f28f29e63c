"""How one request was scored, noted only where somebody hears of it: traces, the access log, the decision log."""

from typing import NamedTuple

from service.types import ScoreRequest, ScoreResult


class Course(NamedTuple):
    """What was asked of each head, what came of it, and when.

    `times_s` are on the clock of `time.monotonic`: when it began, then when each stage of `STAGE_NAMES` had ended,
    as far as it came. Where it failed there are no `results`.
    """

    requests: tuple[ScoreRequest, ...]
    results: tuple[ScoreResult, ...]
    times_s: tuple[float, ...]

    @property
    def model(self) -> str:
        """The models that were asked, or the operation on bare logits."""
        return ",".join(one.head.model if one.head else one.operation for one in self.requests)

    @property
    def version(self) -> str:
        return ",".join(one.head.version for one in self.requests if one.head)

    @property
    def rows(self) -> int:
        """How many examples; several heads are asked about the same ones."""
        return max((result.rows for result in self.results), default=0)

    @property
    def batch_rows(self) -> int:
        return max((result.batch_rows for result in self.results), default=0)
