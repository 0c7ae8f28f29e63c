"""Which versions should serve, and what other names they have: a value that every worker follows alike.

A plan is made from another one and from what lies in the folder; nothing is opened here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from service.errors import Invalid, NotFound
from service.heads.storage import StoredVersion

# Numbers win over aliases, so none may look like one; it stands in paths and in headers.
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

# version -> the ask by which its files were looked at last, or None where it is unloaded.
Versions: TypeAlias = Mapping[str, int | None]
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What should serve.

    Parameters
    ----------
    ask : int
        The number of the last change that had files looked at. Whoever follows the plan looks at those of a version
        whose number is not the one that it knows: the files may have been replaced.
    versions : mapping of str to Versions
        All that is known, by model; versions ascending.
    aliases : mapping of str to mapping of str to str
        The versions that names stand for, by model.
    """

    ask: int = 0
    versions: Mapping[str, Versions] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"ask": self.ask, "versions": self.versions, "aliases": self.aliases}

    def wanted(self) -> Iterator[tuple[Key, int]]:
        for model, versions in self.versions.items():
            for version, ask in versions.items():
                if ask is not None:
                    yield (model, version), ask

    def asked_last(self) -> set[Key]:
        """The versions whose files the last change had looked at."""
        return {key for key, ask in self.wanted() if ask == self.ask}

    def reload(self, stored: Iterable[StoredVersion]) -> "Plan":
        """What is new serves, what has gone goes, what has changed is opened again; what was unloaded stays so."""
        ask = self.ask + 1
        versions: dict[str, dict[str, int | None]] = {}
        for model, number, *_ in sorted(stored):
            known = self.versions.get(model, {})
            unloaded = known.get(str(number), ask) is None
            versions.setdefault(model, {})[str(number)] = None if unloaded else ask
        aliases = {model: names for model, names in self.aliases.items() if model in versions}
        return Plan(ask, versions, aliases)

    def load(self, stored: Iterable[StoredVersion], model: str, version: str | None) -> "Plan":
        """Let one version of a model serve, or all that lie in the folder."""
        numbers = [str(found.version) for found in sorted(stored) if found.model == model]
        if not numbers:
            raise unknown_model({found.model: None for found in sorted(stored)}, model)
        if version is not None and version not in numbers:
            raise unknown_version(numbers, version)
        ask = self.ask + 1
        asked = dict.fromkeys(numbers if version is None else [version], ask)
        merged = {**self.versions.get(model, {}), **asked}
        return replace(self, ask=ask, versions=self._with(model, merged))

    def unload(self, model: str, version: str | None) -> "Plan":
        """Let one version of a model, or all of them, serve no more."""
        versions = self._versions_of(model)
        if version is not None and version not in versions:
            raise unknown_version(versions, version)
        left = dict.fromkeys(versions if version is None else [version])
        return replace(self, versions=self._with(model, {**versions, **left}))

    def name(self, model: str, alias: str, version: str | None) -> "Plan":
        """Let a name stand for a version, or for none any more."""
        if not ALIAS.fullmatch(alias):
            message = f"expected a letter, then at most 63 letters, digits, dots, hyphens or underscores, got {short(alias)}"
            raise Invalid("option_type", message, path="alias")
        versions = self._versions_of(model)
        if version is not None and version not in versions:
            raise unknown_version(versions, version)
        names = {name: at for name, at in self.aliases.get(model, {}).items() if name != alias}
        if version is not None:
            names = dict(sorted([*names.items(), (alias, version)]))
        return replace(self, aliases={**self.aliases, model: names})

    def _versions_of(self, model: str) -> Versions:
        if model not in self.versions:
            raise unknown_model(self.versions, model)
        return self.versions[model]

    def _with(self, model: str, versions: Versions) -> Mapping[str, Versions]:
        ascending = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        return dict(sorted({**self.versions, model: ascending}.items()))


def unknown_model(known: Iterable[str], name: str | None) -> NotFound:
    got = "" if name is None else f", got {short(name)}"
    return NotFound("unknown_model", f"expected one of {_listed(known)}{got}", path="model")


def unknown_version(known: Iterable[str], version: str) -> NotFound:
    return NotFound(
        "unknown_version", f"expected one of {_listed(known)}, got {short(version)}", path="version"
    )


def short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "…")


def _listed(known: Iterable[str]) -> str:
    names = list(known)
    return ", ".join(map(short, names[:10])) + (", …" if len(names) > 10 else "")
