"""Which versions should serve, and what other names they have: a value that every worker follows alike.

A plan is made from another one and from what lies in the folder; nothing is opened here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from service.errors import Invalid, NotFound
from service.heads.policy import EVERYTHING, Policy
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
    by_hand : set of Key
        The versions that somebody has loaded or unloaded by name, whatever the policy says of them.
    stored : mapping of Key to StoredVersion
        The files of each version, as they were found when it was looked for last.
    """

    ask: int = 0
    versions: Mapping[str, Versions] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    by_hand: frozenset[Key] = frozenset()
    stored: Mapping[Key, StoredVersion] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        stored = (
            StoredVersion(model, version, Path(path), description and Path(description), mark)
            for model, version, path, description, mark in value["stored"]
        )
        by_hand = frozenset((model, version) for model, version in value["by_hand"])
        return cls(value["ask"], value["versions"], value["aliases"], by_hand, _by_key(stored))

    def to_json(self) -> dict[str, Any]:
        return {
            "ask": self.ask,
            "versions": self.versions,
            "aliases": self.aliases,
            "by_hand": sorted(map(list, self.by_hand)),
            "stored": [
                [model, version, str(path), description and str(description), mark]
                for model, version, path, description, mark in self.stored.values()
            ],
        }

    def wanted(self) -> Iterator[tuple[Key, int]]:
        for model, versions in self.versions.items():
            for version, ask in versions.items():
                if ask is not None:
                    yield (model, version), ask

    def asked_last(self) -> set[Key]:
        """The versions whose files the last change had looked at."""
        return {key for key, ask in self.wanted() if ask == self.ask}

    def reload(self, stored: Iterable[StoredVersion], policy: Policy = EVERYTHING) -> "Plan":
        """What is new serves if the policy wants it, what has gone goes, everything else is opened again.

        What was unloaded stays so, and what the policy no longer wants goes with `settle`, not before.
        """
        return self._look(_by_key(stored), policy, again=True)

    def notice(self, stored: Iterable[StoredVersion], policy: Policy = EVERYTHING) -> "Plan":
        """As `reload`, but files that are as they were are not opened again; this very plan where all are."""
        files = _by_key(stored)
        after = self._look(files, policy, again=False)
        return self if (after.versions, after.stored) == (self.versions, self.stored) else after

    def settle(self, policy: Policy, failed: Iterable[Key]) -> "Plan":
        """Let go of what the policy does not want, now that it is known which versions have failed.

        A version goes only if the policy has chosen others of those that serve, too: a newest one that fails leaves
        the one before it serving.
        """
        versions = {}
        serving = {key for key, _ in self.wanted()} - set(failed)
        for model, known in self.versions.items():
            chosen = policy.pick(model, known)
            chosen |= policy.pick(model, [version for version in known if (model, version) in serving])
            versions[model] = {
                version: ask if version in chosen or (model, version) in self.by_hand else None
                for version, ask in known.items()
            }
        return replace(self, versions=versions)

    def load(
        self, stored: Iterable[StoredVersion], model: str, version: str | None, policy: Policy = EVERYTHING
    ) -> "Plan":
        """Let one version of a model serve, or all that lie there and the policy wants."""
        files = _by_key(stored)
        numbers = [number for found, number in files if found == model]
        if not numbers:
            raise unknown_model(dict.fromkeys(found for found, _ in files), model)
        if version is not None and version not in numbers:
            raise unknown_version(numbers, version)
        ask = self.ask + 1
        chosen = policy.pick(model, numbers) if version is None else {version}
        asked = {number: ask for number in numbers if number in chosen}
        merged = {**self.versions.get(model, {}), **asked}
        looked_at = {(model, number): files[model, number] for number in asked}
        return replace(
            self,
            ask=ask,
            versions=self._with(model, merged),
            by_hand=self._by_hand(model, asked, by_name=version is not None),
            stored=_in_order({**self.stored, **looked_at}),
        )

    def unload(self, model: str, version: str | None) -> "Plan":
        """Let one version of a model, or all of them, serve no more."""
        versions = self._versions_of(model)
        if version is not None and version not in versions:
            raise unknown_version(versions, version)
        left = dict.fromkeys(versions if version is None else [version])
        return replace(
            self,
            versions=self._with(model, {**versions, **left}),
            by_hand=self._by_hand(model, left, by_name=True),
        )

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

    def _look(self, files: Mapping[Key, StoredVersion], policy: Policy, *, again: bool) -> "Plan":
        ask = self.ask + 1
        numbers: dict[str, list[str]] = {}
        for model, number in files:
            numbers.setdefault(model, []).append(number)
        versions: dict[str, dict[str, int | None]] = {model: {} for model in numbers}
        for key, found in files.items():
            model, number = key
            before = self.versions.get(model, {}).get(number)
            picked = key not in self.by_hand and number in policy.pick(model, numbers[model])
            same = before is not None and not again and self.stored.get(key) == found
            versions[model][number] = before if same else ask if picked or before is not None else None
        aliases = {model: names for model, names in self.aliases.items() if model in versions}
        return Plan(ask, versions, aliases, self.by_hand & files.keys(), files)

    def _by_hand(self, model: str, versions: Iterable[str], *, by_name: bool) -> frozenset[Key]:
        keys = {(model, version) for version in versions}
        return self.by_hand | keys if by_name else self.by_hand - keys

    def _versions_of(self, model: str) -> Versions:
        if model not in self.versions:
            raise unknown_model(self.versions, model)
        return self.versions[model]

    def _with(self, model: str, versions: Versions) -> Mapping[str, Versions]:
        ascending = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        return dict(sorted({**self.versions, model: ascending}.items()))


def _by_key(stored: Iterable[StoredVersion]) -> dict[Key, StoredVersion]:
    return _in_order({(found.model, str(found.version)): found for found in stored})


def _in_order(files: Mapping[Key, StoredVersion]) -> dict[Key, StoredVersion]:
    return dict(sorted(files.items(), key=lambda item: (item[0][0], int(item[0][1]))))


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
