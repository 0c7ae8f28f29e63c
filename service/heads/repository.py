"""Which versions of heads serve: opened as the plan says, swapped while others answer, drained and let go.

Knows where versions lie and what is planned for them; knows no request, no label and no HTTP, and not who plans.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import LogitserveError, ModelError, NotReady, StartError
from service.heads.engine import Provider
from service.heads.handle import Head, join, open_head, read_files
from service.heads.plan import Key, Plan, short, unknown_model, unknown_version
from service.heads.policy import EVERYTHING, Policy
from service.heads.storage import Folder, Storage, StoredVersion
from service.types import HeadInfo

NO_VERSIONS: dict[str, Head] = {}
# The name of a version that is scored beside the one that answers, to be compared with it, and answers only by name.
SHADOW = "shadow"

# What is not ready may be so any moment where it is being loaded; where it is not, nobody knows when.
RETRY = {"Retry-After": "1"}

_log = logging.getLogger("logitserve")


class Repository:
    """All versions at one location.

    `info` and `head` are asked for each request, on the event loop; whatever changes them is called in a thread and
    replaces what they look into as a whole.

    Parameters
    ----------
    location : Path or Storage
        Where they come from: a folder of heads or one .onnx file, see `storage`; or something else that has them.
    policy : Policy
        Which versions serve where nobody says otherwise.
    provider : "auto", "cpu" or "cuda"
    threads : int
        How many threads one run may use.
    """

    def __init__(
        self,
        location: Path | Storage,
        *,
        policy: Policy = EVERYTHING,
        provider: Provider = "auto",
        threads: int = 1,
    ) -> None:
        self._storage: Storage = Folder(location) if isinstance(location, Path) else location
        self.policy = policy
        self._provider = provider
        self._threads = threads
        self._following = threading.Lock()
        self.plan = Plan()
        # model -> version -> handle, versions ascending; every model that is known, and what serves of it.
        self._heads: dict[str, dict[str, Head]] = {}
        # Handles that serve no more but for those who found them before, and since when.
        self._left: tuple[tuple[Head, float], ...] = ()
        # What answers each model's requests without a version, and what is scored beside it; replaced whole.
        self._defaults: dict[str, str] = {}
        self.shadows: dict[str, Head] = {}
        self._asks: dict[Key, int] = {}
        self._failures: dict[Key, str] = {}
        self._known: dict[Key, HeadInfo] = {}

    def stored(self) -> list[StoredVersion]:
        """Look at what lies there now; `StartError` where there is nothing, or where it cannot be asked."""
        return self._storage.versions()

    def first(self) -> Plan:
        """Plan what serves at the start; `StartError` where that is nothing."""
        plan = Plan().reload(self.stored(), self.policy)
        if not any(plan.wanted()):
            rules = ", ".join(f"{model} ({self.policy.rule(model)})" for model in list(plan.versions)[:10])
            raise StartError(
                f"version_policy leaves nothing to serve: it wants none of the versions of {rules}"
            )
        return plan

    def load(self) -> None:
        """Open, warm up and self-test every version that is wanted of those that are there; blocks.

        `StartError` where there is nothing to serve or nothing to run it with; `ModelError` naming the
        version that fails and why.
        """
        plan = self.plan.reload(self.stored(), self.policy) if self.plan.versions else self.first()
        self.follow(plan, strict=True)

    def follow(self, plan: Plan, *, strict: bool = False) -> dict[Key, str]:
        """Open what the plan wants, then let go of what it does not; blocks.

        Each version serves from the moment when it has passed its self-test, in place of the handle that it had.
        One that fails leaves that handle serving.

        Parameters
        ----------
        plan : Plan
        strict : bool
            Raise what the first version fails with, naming it.

        Returns
        -------
        dict of (model, version) to str
            The reasons of all that failed, now or before.
        """
        with self._following:
            self.plan = plan
            heads = self._serving()
            self._show(heads, plan.versions)
            asked = {key: ask for key, ask in plan.wanted() if self._asks.get(key) != ask}
            for key, ask in asked.items():
                self._open(key, plan.stored[key], heads, strict=strict)
                self._asks[key] = ask
                self._show(heads, plan.versions)
            wanted = dict(plan.wanted())
            for known in (heads, self._asks, self._failures):
                for key in known.keys() - wanted.keys():
                    del known[key]
            self._show(heads, plan.versions)
            return dict(self._failures)

    def release(self, left_before_s: float) -> bool:
        """Let go of handles that left before then, on the clock of `time.monotonic`, and return whether there were any.

        Runs under way finish: a session goes with the last who holds its handle.
        """
        staying = tuple((head, since_s) for head, since_s in self._left if since_s >= left_before_s)
        released = len(staying) < len(self._left)
        self._left = staying
        return released

    def info(self, model: str | None, version: str | None) -> HeadInfo:
        """Resolve names to the exact version: by default the only model, and its newest version."""
        if model is None:
            model = self._only_model()
        versions = self._heads.get(model)
        if versions is None:
            raise self._unknown_model(model)
        if version is None:
            if not versions:
                raise NotReady("not_ready", f"no version of {model} is loaded", headers=RETRY)
            version = self._defaults[model]
        head = versions.get(version)
        return self._named(model, version).info if head is None else head.info

    def head(self, info: HeadInfo) -> Head:
        """The handle of an exact version; `NotReady` where it has gone."""
        head = self._heads.get(info.model, NO_VERSIONS).get(info.version)
        if head is None or head.info.digest != info.digest:
            for left, _ in self._left:
                if left.info == info:
                    return left
            raise NotReady(
                "not_ready", f"{info.model} version {info.version} is no longer loaded", headers=RETRY
            )
        return head

    def join(self, heads: Sequence[Head]) -> Head:
        """Open one head that scores what these do; see `handle.join`."""
        return join(heads, threads=self._threads)

    def holds(self, head: Head) -> bool:
        """Whether this very handle may still be asked for."""
        serving = self._heads.get(head.info.model, NO_VERSIONS).get(head.info.version)
        return serving is head or any(left is head for left, _ in self._left)

    def infos(self) -> list[HeadInfo]:
        """Everything that serves now."""
        return [head.info for head in self._serving().values()]

    def known(self, model: str, version: str) -> HeadInfo | None:
        """What serves now under this number, or served last since the start."""
        return self._known.get((model, version))

    def describe(self) -> list[dict[str, Any]]:
        """Everything that may be told of the heads, model by model, as JSON values."""
        plan = self.plan
        return [
            {
                "name": model,
                "default_version": self._defaults.get(model),
                "aliases": dict(plan.aliases.get(model, {})),
                "version_policy": self.policy.rule(model),
                "versions": [self._describe((model, version), ask) for version, ask in versions.items()],
            }
            for model, versions in plan.versions.items()
        ]

    def examples(self, model: str, version: str) -> dict[str, Any]:
        """Rows to try a version with, and what there is to show them by, as JSON values."""
        head = self.head(self.info(model, version))
        info, description = head.info, head.description
        examples, image = description.examples, description.image
        return {
            "model": info.model,
            "version": info.version,
            "class_names": info.class_names,
            "num_features": info.num_features,
            "image": image and image.model_dump(),
            "features": examples.features if examples else (),
            "labels": examples and examples.labels,
        }

    def close(self) -> None:
        """Let go of every head; runs under way finish."""
        self._heads, self._left, self.plan, self.shadows = {}, (), Plan(), {}

    def _open(self, key: Key, stored: StoredVersion, heads: dict[Key, Head], *, strict: bool) -> None:
        """Open a version and put it in the place of its handle, unless that has the same files."""
        self._failures.pop(key, None)
        try:
            self._storage.fetch(stored)
            files = read_files(stored)
            if key not in heads or heads[key].info.digest != files.digest:
                heads[key] = open_head(stored, files, provider=self._provider, threads=self._threads)
        except Exception as error:
            if strict and isinstance(error, ModelError):
                raise ModelError(f"{key[0]} version {key[1]}: {error}") from error
            if strict:
                raise
            if isinstance(error, LogitserveError):
                self._failures[key] = str(error)
            else:
                _log.exception("%s version %s cannot be loaded", *key)
                self._failures[key] = "an unforeseen fault of the service; its log has the details"

    def _serving(self) -> dict[Key, Head]:
        return {
            (model, version): head
            for model, versions in self._heads.items()
            for version, head in versions.items()
        }

    def _show(self, heads: dict[Key, Head], models: Iterable[str]) -> None:
        """Let these serve from now on; a handle that does no more can be found before it cannot be looked up."""
        shown: dict[str, dict[str, Head]] = {
            model: {} for model in sorted({*models, *(key[0] for key in heads)})
        }
        for model, version in sorted(heads, key=lambda key: int(key[1])):
            shown[model][version] = heads[model, version]
        self._name(shown)
        now_s = time.monotonic()
        left = [(head, now_s) for key, head in self._serving().items() if heads.get(key) is not head]
        self._left = (*self._left, *left)
        self._heads = shown
        self._known |= {key: head.info for key, head in heads.items()}

    def _name(self, shown: Mapping[str, Mapping[str, Head]]) -> None:
        """Find each model's shadow, and its newest version beside that, which answers where no version is named."""
        defaults, shadows = {}, {}
        for model, versions in shown.items():
            shadow = self.plan.aliases.get(model, {}).get(SHADOW)
            others = [version for version in versions if version != shadow] or list(versions)
            if others:
                defaults[model] = others[-1]
            if shadow is not None and shadow in versions and shadow != defaults[model]:
                shadows[model] = versions[shadow]
        self._defaults, self.shadows = defaults, shadows

    def _only_model(self) -> str:
        """The one model there is: unloading another must not send its requests to this one."""
        if not self._heads:
            raise NotReady("not_ready", "no head is loaded yet", headers=RETRY)
        if len(self._heads) > 1:
            raise unknown_model(self._heads, None)
        return next(iter(self._heads))

    def _unknown_model(self, model: str) -> LogitserveError:
        if not self._heads:
            return NotReady("not_ready", "no head is loaded yet", headers=RETRY)
        return unknown_model(self._heads, model)

    def _named(self, model: str, name: str) -> Head:
        """Find the version that no number names: by its alias, if it has one."""
        versions = self._heads.get(model, NO_VERSIONS)
        version = self.plan.aliases.get(model, {}).get(name, name)
        if version in versions:
            return versions[version]
        known = self.plan.versions.get(model, {})
        if version == name and name not in known:
            raise unknown_version(known, name)
        called = f"{model} version {version}" + (f" ({short(name)})" if name != version else "")
        raise NotReady("not_ready", f"{called} is not loaded", headers=RETRY)

    def _describe(self, key: Key, ask: int | None) -> dict[str, Any]:
        model, version = key
        head = self._heads.get(model, NO_VERSIONS).get(version)
        failure = self._failures.get(key)
        if head is not None:
            return _describe(head, failure)
        if ask is None:
            by_hand = key in self.plan.by_hand
            reason = "unloaded" if by_hand else f"left out by the version policy {self.policy.rule(model)}"
            return {"version": version, "state": "unloaded", "reason": reason}
        return {"version": version, "state": "loading" if failure is None else "failed", "reason": failure}


def _describe(head: Head, failure: str | None) -> dict[str, Any]:
    info, description = head.info, head.description
    told = description.model_dump(include={"calibration", "image", "metrics", "source"})
    return {
        "version": info.version,
        "state": "ready",
        "reason": failure and f"the files that are there now cannot be loaded: {failure}",
        "inputs": [{"name": head.input_name, "dtype": str(info.dtype), "shape": [-1, info.num_features]}],
        "outputs": [{"name": head.output_name, "dtype": str(info.dtype), "shape": [-1, info.num_classes]}],
        "class_names": None if info.class_names is None else list(info.class_names),
        "digest": info.digest,
        "provider": info.provider,
        "examples": 0 if description.examples is None else len(description.examples.features),
        **told,
    }
