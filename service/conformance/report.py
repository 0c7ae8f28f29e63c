"""What is said about an examination: figures by family, every check that broke, every one not asked and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.conformance.examination import Check, State
from service.conformance.vectors import FAMILIES, PUBLISHED

# A table of a thousand names says no more than a few and their number.
NAMED_VECTORS = 4
STATES: tuple[State, ...] = ("held", "inexact", "broken", "not expressible")
COLUMNS = (*STATES, "worst ulp, float32", "float64")


class Report:
    """One examination of the server at `url`, through `dialect`."""

    def __init__(self, url: str, dialect: str, checks: Sequence[Check]) -> None:
        self.url = url
        self.dialect = dialect
        self.checks = checks
        self.states = Counter(check.state for check in checks)

    @property
    def passed(self) -> bool:
        """Whether something could be asked, and all of it held."""
        return self.states["held"] > 0 == self.states["inexact"] + self.states["broken"]

    def summary(self) -> str:
        unasked = self.states["not expressible"]
        if unasked == len(self.checks):
            return f"nothing could be asked through {self.dialect}; {unasked} checks are not expressible"
        said = f"{self.score()} checks hold through {self.dialect}"
        if self.states["inexact"]:
            said += f", {self.states['inexact']} inexact"
        return f"{said}; {unasked} more are not expressible" if unasked else said

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "url": self.url,
            "dialect": self.dialect,
            **{state.replace(" ", "_"): self.states[state] for state in STATES},
            "checks": [
                {
                    "vector": check.question.vector,
                    "family": check.question.family,
                    "operation": check.question.operation,
                    "dtype": check.question.dtype.name,
                    "output": check.output,
                    "state": check.state,
                    "ulp": check.ulp,
                    "why": check.why,
                }
                for check in self.checks
            ],
        }

    def tables(self) -> RenderableType:
        """Lay it out for a terminal."""
        parts: list[RenderableType] = [self._families()]
        for state in ("inexact", "broken"):
            if self.states[state]:
                checks = self._of(state)
                parts.append(_grouped(state, "what came", checks, lambda check: check.question.vector))
        if self.states["not expressible"]:
            unasked = self._of("not expressible")
            parts.append(_grouped("not expressible", "why", unasked, lambda check: check.why))
        style = "bold green" if self.passed else "bold red"
        return Group(*parts, Text(self.summary(), style=style))

    def score(self, family: str | None = None) -> str:
        """Say how many of the checks that could be asked hold, of one family or of all."""
        states = Counter(check.state for check in self._family(family))
        asked = states["held"] + states["inexact"] + states["broken"]
        return f"{states['held']} of {asked}" if asked else "-"

    def worst_ulp(self, dtype: str, family: str | None = None) -> str:
        """Say by how many units in the last place the worst number is off, where numbers came."""
        checks = [check for check in self._family(family) if check.question.dtype == dtype]
        ulps = [check.ulp for check in checks if check.ulp is not None]
        return f"{max(ulps):.3g}" if ulps else ""

    def _family(self, family: str | None) -> list[Check]:
        return [check for check in self.checks if family in {None, check.question.family}]

    def _of(self, state: str) -> list[Check]:
        return [check for check in self.checks if check.state == state]

    def _families(self) -> Table:
        table = Table("family")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for family in (PUBLISHED, *FAMILIES):
            states = Counter(check.state for check in self._family(family))
            counts = [str(states[state] or "") for state in STATES]
            ulps = [self.worst_ulp(dtype, family) for dtype in ("float32", "float64")]
            table.add_row(
                family,
                *counts,
                *ulps,
                style="red" if states["broken"] else "yellow" if states["inexact"] else "",
            )
        return table


def _grouped(title: str, last: str, checks: Iterable[Check], key: Callable[[Check], str]) -> Table:
    """List checks: those that broke one by one, those that were not asked by their reason."""
    table = Table("vectors", "outputs", last, title=title, title_justify="left", title_style="bold")
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(key(check), []).append(check)
    for group in groups.values():
        vectors = list(dict.fromkeys(check.question.vector for check in group))
        more = f" and {len(vectors) - NAMED_VECTORS} more" if len(vectors) > NAMED_VECTORS else ""
        outputs = ", ".join(dict.fromkeys(check.output for check in group))
        reasons = list(dict.fromkeys(check.why for check in group))
        table.add_row(", ".join(vectors[:NAMED_VECTORS]) + more, outputs, Text("\n".join(reasons)))
    return table
