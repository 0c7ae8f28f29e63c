"""Which of a model's versions serve where nobody says otherwise: all, the newest few, or those named.

Written as `RULE`, or as several `[MODEL=]RULE` with semicolons between them; the one without a model is for all others:

    all                        every version
    latest:2                   the two newest
    specific:1,3               versions 1 and 3
    latest:1;digits=all        every version of digits, of others the newest

Knows numbers of versions; knows no file and not who serves them.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from service.errors import StartError

ALL = "all"


class Policy(NamedTuple):
    """What was written, as a rule for each model that is named and one for the others."""

    others: str
    named: Mapping[str, str]

    def rule(self, model: str) -> str:
        return self.named.get(model, self.others)

    def pick(self, model: str, versions: Collection[str]) -> set[str]:
        """Choose from the versions of a model."""
        kind, _, rest = self.rule(model).partition(":")
        if kind == "latest":
            return set(sorted(versions, key=int)[-int(rest) :])
        return set(versions) if kind == ALL else set(versions) & set(rest.split(","))


EVERYTHING = Policy(ALL, {})


def read_policy(text: str) -> Policy:
    """Read what the setting `version_policy` lets through; `StartError` for two rules of one model."""
    rules: dict[str, str] = {}
    for part in text.split(";"):
        model, _, rule = part.rpartition("=")
        if model in rules:
            raise StartError(f"version_policy: expected one rule for {model or 'all others'}, got two")
        rules[model] = rule
    return Policy(rules.pop("", ALL), rules)
