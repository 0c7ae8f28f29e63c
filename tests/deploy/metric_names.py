"""The names of metrics and labels in expressions, and those that the service has."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from service.instruments import INSTRUMENTS, Instrument

# Those that Prometheus adds to every target, and to the buckets of a histogram.
ADDED = frozenset({"job", "instance", "le"})

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def exposed(instrument: Instrument) -> dict[str, frozenset[str]]:
    """The series of an instrument, as /metrics names them, with their labels."""
    return {f"{instrument.name}{end}": frozenset(instrument.labels) for end in SUFFIXES[instrument.kind]}


KNOWN = {name: labels for instrument in INSTRUMENTS for name, labels in exposed(instrument).items()}


class Selector(NamedTuple):
    name: str
    labels: frozenset[str]


def selectors(expr: str) -> Iterator[Selector]:
    """Each metric of the service in an expression, with the labels it is chosen by; what rules record has colons."""
    for found in re.finditer(r"(?<![\w:])(logitserve_\w+)(?![\w:])(?:\{([^}]*)\})?", expr):
        yield Selector(found[1], frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", found[2] or "")))


def unknown(expr: str) -> list[str]:
    """What an expression asks for that the service does not have."""
    wrong = []
    for name, labels in selectors(expr):
        if name not in KNOWN:
            wrong.append(f"there is no {name}")
        elif not labels <= KNOWN[name] | ADDED:
            wrong.append(f"{name} has no label {', '.join(sorted(labels - KNOWN[name] - ADDED))}")
    return wrong
