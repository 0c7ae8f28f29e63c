"""Versions of heads: looked up by name, described, loaded and unloaded while they serve."""

import json
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import BIAS, DESCRIPTION, LINEAR, WEIGHTS, load, write
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.errors import ModelError, NotFound, NotReady, StartError
from service.heads.description import digest_of
from service.heads.graphs import Linear, build_linear
from service.heads.handle import open_head
from service.heads.repository import Repository
from service.types import HeadInfo

# The names of versions


def test_nothing_is_ready_before_loading_and_after_closing(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    repository = Repository(tmp_path, provider="cpu")
    with pytest.raises(NotReady):
        repository.info(None, None)
    assert repository.describe() == []
    repository.load()
    info = repository.info(None, None)
    repository.close()
    with pytest.raises(NotReady):
        repository.info(None, None)
    with pytest.raises(NotReady, match="pets version 1 is no longer loaded"):
        repository.head(info)


def test_the_default_is_the_only_model_and_its_newest_version(tmp_path: Path) -> None:
    for version in (1, 10, 9):
        write(tmp_path, "pets", version)
    repository = load(tmp_path)
    assert repository.info(None, None).version == "10"
    assert repository.info("pets", None) == repository.info(None, "10")
    assert repository.info("pets", "9").version == "9"


def test_several_models_must_be_named(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    write(tmp_path, "cars")
    repository = load(tmp_path)
    assert repository.info("cars", None).model == "cars"
    with pytest.raises(NotFound) as raised:
        repository.info(None, None)
    assert (raised.value.code, raised.value.detail) == (
        "unknown_model",
        "model: expected one of 'cars', 'pets'",
    )


@pytest.mark.parametrize("name", ["Pets", "", "../pets", "x" * 5000])
def test_an_unknown_model_is_told_what_there_is(tmp_path: Path, name: str) -> None:
    write(tmp_path, "pets")
    with pytest.raises(NotFound) as raised:
        load(tmp_path).info(name, None)
    assert raised.value.code == "unknown_model"
    assert raised.value.message.startswith("expected one of 'pets', got '")
    assert len(raised.value.message) < 100


@pytest.mark.parametrize("version", ["2", "01", "1.0", "latest", "", "9" * 5000])
def test_an_unknown_version_is_told_what_there_is(tmp_path: Path, version: str) -> None:
    write(tmp_path, "pets")
    with pytest.raises(NotFound) as raised:
        load(tmp_path).info("pets", version)
    assert raised.value.code == "unknown_version"
    assert raised.value.offences[0].path == "version"
    assert raised.value.message.startswith("expected one of '1', got '")
    assert len(raised.value.message) < 100


def test_a_long_list_of_names_is_cut_short(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"m{number:02}.onnx").write_bytes(LINEAR)
    with pytest.raises(NotFound, match=r"'m09', …$"):
        load(tmp_path).info(None, None)


def test_a_handle_of_other_bytes_under_the_same_name_is_gone(tmp_path: Path) -> None:
    folder = write(tmp_path, "pets")
    repository = load(tmp_path)
    before = repository.info(None, None)
    assert repository.head(before).info == before
    (folder / "model.onnx").write_bytes(build_linear(Linear(WEIGHTS * 2, BIAS)))
    repository.load()
    assert repository.head(before).info == before, "whoever found it may still finish"
    assert repository.info(None, None).digest != before.digest
    assert repository.release(time.monotonic())
    with pytest.raises(NotReady):
        repository.head(before)
    assert repository.head(repository.info(None, None)).info.digest != before.digest


def test_a_load_that_fails_leaves_what_was_served(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    repository = load(tmp_path)
    info = repository.info(None, None)
    write(tmp_path, "pets", 2, b"garbage")
    with pytest.raises(ModelError):
        repository.load()
    assert repository.info(None, None) == info


# What a version is


def test_a_version_is_told_with_everything_known_of_it(tmp_path: Path) -> None:
    image = {"height": 1, "width": 3, "largest": 2}
    shown = {"image": image, "examples": {"features": [[0, 1, 2], [2, 2, 0]]}}
    text = json.dumps({**DESCRIPTION, **shown, "metrics": {"accuracy": 0.5}})
    write(tmp_path, "pets", 1, text=text)
    write(tmp_path, "pets", 2)
    first, second = load(tmp_path).describe()[0].pop("versions")
    assert first == {
        "version": "1",
        "state": "ready",
        "reason": None,
        "inputs": [{"name": "features", "dtype": "float32", "shape": [-1, 3]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [-1, 2]}],
        "class_names": ["cat", "dog"],
        "calibration": None,
        "metrics": {"accuracy": 0.5},
        "source": {"data": "made up"},
        "digest": digest_of(LINEAR, text.encode()),
        "provider": "cpu",
        "image": image,
        "examples": 2,
    }
    assert (second["image"], second["examples"]) == (None, 0)
    assert (second["class_names"], second["metrics"], second["source"]) == (None, {}, {})


def test_a_version_gives_its_examples_by_number_and_by_alias(tmp_path: Path) -> None:
    examples = {"features": [[0, 1, 2], [2, 2, 0]], "labels": [1, 0]}
    image = {"height": 3, "width": 1, "largest": 2}
    write(tmp_path, "pets", 1, text=json.dumps({**DESCRIPTION, "examples": examples, "image": image}))
    write(tmp_path, "pets", 2)
    repository = load(tmp_path)
    given = repository.examples("pets", "1")
    assert json.loads(json.dumps(given)) == {
        "model": "pets",
        "version": "1",
        "class_names": ["cat", "dog"],
        "num_features": 3,
        "image": image,
        **examples,
    }
    repository.follow(repository.plan.name("pets", "stable", "1"))
    assert repository.examples("pets", "stable") == given
    assert json.loads(json.dumps(repository.examples("pets", "2"))) == {
        "model": "pets",
        "version": "2",
        "class_names": None,
        "num_features": 3,
        "image": None,
        "features": [],
        "labels": None,
    }


def test_examples_of_a_version_that_does_not_serve_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, "pets", 1)
    write(tmp_path, "pets", 2)
    repository = load(tmp_path)
    for model, version in (("cars", "1"), ("pets", "3")):
        with pytest.raises(NotFound):
            repository.examples(model, version)
    repository.follow(repository.plan.unload("pets", "1"))
    with pytest.raises(NotReady, match="pets version 1 is not loaded"):
        repository.examples("pets", "1")


def test_models_are_told_with_their_default_version(tmp_path: Path) -> None:
    write(tmp_path, "pets", 2)
    write(tmp_path, "pets", 10)
    (tmp_path / "cars.onnx").write_bytes(LINEAR)
    described = load(tmp_path).describe()
    assert json.loads(json.dumps(described)) == described
    told = [(model["name"], model["default_version"], model["aliases"]) for model in described]
    assert told == [("cars", "1", {}), ("pets", "10", {})]
    assert [version["version"] for version in described[1]["versions"]] == ["2", "10"]


def test_one_bare_file_is_served(tmp_path: Path) -> None:
    (tmp_path / "pets.onnx").write_bytes(LINEAR)
    info = load(tmp_path / "pets.onnx").info("pets", "1")
    assert (info.num_features, info.num_classes, info.class_names) == (3, 2, None)
    assert info.digest == digest_of(LINEAR)


def test_head_json_names_the_tensors(tmp_path: Path) -> None:
    model = build_linear(Linear(WEIGHTS, BIAS), input_name="x", output_name="y")
    write(tmp_path, "pets", 1, model, json.dumps({"input": "x", "output": "y", "dtype": "float32"}))
    version = load(tmp_path).describe()[0]["versions"][0]
    assert (version["inputs"][0]["name"], version["outputs"][0]["name"]) == ("x", "y")


def test_an_empty_location_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no heads in"):
        load(tmp_path)


# Following a plan while serving


def states(repository: Repository) -> dict[str, dict[str, str]]:
    return {
        model["name"]: {version["version"]: version["state"] for version in model["versions"]}
        for model in repository.describe()
    }


def reason(repository: Repository, model: str, version: str) -> str | None:
    (found,) = (m for m in repository.describe() if m["name"] == model)
    (told,) = (v for v in found["versions"] if v["version"] == version)
    return str(told["reason"]) if told["reason"] is not None else None


def test_a_new_version_serves_by_default_and_the_old_one_stays(tmp_path: Path) -> None:
    write(tmp_path, "pets", 9)
    repository = load(tmp_path)
    old = repository.info(None, None)
    write(tmp_path, "pets", 10)
    assert repository.follow(repository.plan.reload(repository.stored())) == {}
    assert repository.info(None, None).version == "10"
    assert repository.info("pets", "9") is old
    assert repository.head(old).info is old
    assert not repository.release(time.monotonic()), "nobody left"


def test_an_unloaded_version_is_known_but_not_ready(tmp_path: Path) -> None:
    write(tmp_path, "pets", 1)
    write(tmp_path, "pets", 2)
    repository = load(tmp_path)
    repository.follow(repository.plan.unload("pets", "2"))
    assert states(repository) == {"pets": {"1": "ready", "2": "unloaded"}}
    assert reason(repository, "pets", "2") == "unloaded"
    assert repository.info("pets", None).version == "1"
    with pytest.raises(NotReady, match="pets version 2 is not loaded") as raised:
        repository.info("pets", "2")
    assert raised.value.headers == {"Retry-After": "1"}
    with pytest.raises(NotFound):
        repository.info("pets", "3")


def test_a_model_without_a_version_is_not_ready_and_no_other_takes_its_requests(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    write(tmp_path, "cars")
    repository = load(tmp_path)
    repository.follow(repository.plan.unload("pets", None))
    with pytest.raises(NotReady, match="no version of pets is loaded"):
        repository.info("pets", None)
    with pytest.raises(NotFound, match="expected one of 'cars', 'pets'"):
        repository.info(None, None)
    assert [model["default_version"] for model in repository.describe()] == ["1", None]
    repository.follow(repository.plan.load(repository.stored(), "pets", None))
    assert repository.info("pets", None).version == "1"


def test_what_vanished_from_the_folder_is_unknown_after_a_reload(tmp_path: Path) -> None:
    write(tmp_path, "cars")
    folder = write(tmp_path, "pets")
    repository = load(tmp_path)
    shutil.rmtree(folder.parent)
    repository.follow(repository.plan.unload("cars", None))
    assert repository.info("pets", None).version == "1", "until somebody looks"
    repository.follow(repository.plan.reload(repository.stored()))
    with pytest.raises(NotFound, match="expected one of 'cars', got 'pets'"):
        repository.info("pets", None)
    assert states(repository) == {"cars": {"1": "unloaded"}}


def test_whoever_found_a_version_before_it_left_may_finish(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    repository = load(tmp_path)
    info = repository.info(None, None)
    head = repository.head(info)
    begun_s = time.monotonic()
    repository.follow(repository.plan.unload("pets", None))
    assert not repository.release(begun_s), "it left later"
    assert repository.head(info) is head
    assert repository.holds(head)
    assert repository.release(time.monotonic() + 1)
    assert not repository.holds(head)
    with pytest.raises(NotReady, match="no longer loaded"):
        repository.head(info)
    head.run(np.ones((1, 3), np.float32))  # as one under way does


def test_the_memory_of_a_version_goes_with_the_last_who_holds_it(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    repository = load(tmp_path)
    handle = weakref.ref(repository.head(repository.info(None, None)))
    repository.follow(repository.plan.unload("pets", None))
    assert handle() is not None
    repository.release(time.monotonic() + 1)
    assert handle() is None


def test_a_version_that_fails_is_told_with_its_reason_and_the_others_serve(tmp_path: Path) -> None:
    write(tmp_path, "pets", 1)
    repository = load(tmp_path)
    write(tmp_path, "pets", 2, b"garbage")
    write(tmp_path, "pets", 3)
    failures = repository.follow(repository.plan.reload(repository.stored()))
    assert list(failures) == [("pets", "2")]
    assert failures["pets", "2"].startswith("onnxruntime cannot open the model")
    assert states(repository) == {"pets": {"1": "ready", "2": "failed", "3": "ready"}}
    assert reason(repository, "pets", "2") == failures["pets", "2"]
    with pytest.raises(NotReady):
        repository.info("pets", "2")
    (tmp_path / "pets" / "2" / "model.onnx").write_bytes(LINEAR)
    assert repository.follow(repository.plan.unload("pets", "1")) == failures, "nobody asked to look again"
    assert repository.follow(repository.plan.load(repository.stored(), "pets", "2")) == {}
    assert states(repository)["pets"]["2"] == "ready"


def test_a_version_whose_new_files_fail_serves_on_with_the_old(tmp_path: Path) -> None:
    folder = write(tmp_path, "pets")
    repository = load(tmp_path)
    info = repository.info(None, None)
    (folder / "model.onnx").write_bytes(b"garbage")
    assert list(repository.follow(repository.plan.load(repository.stored(), "pets", "1"))) == [("pets", "1")]
    assert repository.info(None, None) is info
    assert states(repository) == {"pets": {"1": "ready"}}
    assert "cannot be loaded: onnxruntime" in str(reason(repository, "pets", "1"))


def test_a_version_whose_files_have_gone_serves_on_until_a_reload(tmp_path: Path) -> None:
    write(tmp_path, "cars")
    folder = write(tmp_path, "pets")
    repository = load(tmp_path)
    plan = repository.plan.load(repository.stored(), "pets", "1")
    shutil.rmtree(folder.parent)
    assert repository.follow(plan) == {
        ("pets", "1"): f"cannot read {folder}/model.onnx: No such file or directory"
    }
    assert repository.info("pets", None).version == "1"


def test_a_folder_that_cannot_be_read_fails_what_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "heads", "pets")
    repository = load(tmp_path / "heads")
    plan = repository.plan.reload(repository.stored())
    (tmp_path / "heads").rename(tmp_path / "moved")
    assert list(repository.follow(plan)) == [("pets", "1")]
    assert repository.info(None, None).version == "1"
    with pytest.raises(StartError):
        repository.stored()
    with pytest.raises(ModelError, match="pets version 1: cannot read"):
        Repository(tmp_path / "heads").follow(plan, strict=True)


def test_the_same_files_are_not_opened_again(tmp_path: Path) -> None:
    write(tmp_path, "pets", text=json.dumps(DESCRIPTION))
    repository = load(tmp_path)
    head = repository.head(repository.info(None, None))
    repository.follow(repository.plan.reload(repository.stored()))
    assert repository.holds(head)
    repository.follow(repository.plan.load(repository.stored(), "pets", "1"))
    assert repository.head(repository.info(None, None)) is head


def test_while_it_is_loading_a_version_is_told_so_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "pets", 1)
    repository = load(tmp_path)
    write(tmp_path, "pets", 2)
    opening, go_on = threading.Event(), threading.Event()

    def slow(stored: Any, files: Any, **options: Any) -> Any:
        opening.set()
        assert go_on.wait(10)
        return open_head(stored, files, **options)

    monkeypatch.setattr("service.heads.repository.open_head", slow)
    plan = repository.plan.reload(repository.stored()).unload("pets", "1")
    following = threading.Thread(target=repository.follow, args=(plan,))
    following.start()
    assert opening.wait(10)
    assert states(repository) == {"pets": {"1": "ready", "2": "loading"}}, "the old one goes last"
    assert repository.info("pets", None).version == "1"
    with pytest.raises(NotReady):
        repository.info("pets", "2")
    go_on.set()
    following.join()
    assert states(repository) == {"pets": {"1": "unloaded", "2": "ready"}}


def test_a_handle_that_is_replaced_can_be_found_while_others_are_still_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, "pets", 1)
    repository = load(tmp_path)
    old = repository.info("pets", "1")
    (folder / "model.onnx").write_bytes(WEIGHTS_OF[2])
    write(tmp_path, "pets", 2)
    found: list[HeadInfo] = []

    def watching(stored: Any, files: Any, **options: Any) -> Any:
        found.append(repository.head(old).info)
        return open_head(stored, files, **options)

    monkeypatch.setattr("service.heads.repository.open_head", watching)
    repository.follow(repository.plan.reload(repository.stored()))
    assert found == [old, old], "before the first is opened, and before the second"
    assert repository.info("pets", "1").digest != old.digest


def test_a_fault_of_ours_fails_the_version_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "pets", 1)
    repository = load(tmp_path)
    write(tmp_path, "pets", 2)

    def faulty(*_arguments: Any, **_options: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("service.heads.repository.open_head", faulty)
    failures = repository.follow(repository.plan.reload(repository.stored()))
    assert failures == {("pets", "2"): "an unforeseen fault of the service; its log has the details"}
    assert "ZeroDivisionError" in caplog.text


def test_a_name_finds_its_version_and_numbers_win(tmp_path: Path) -> None:
    write(tmp_path, "pets", 1)
    write(tmp_path, "pets", 2)
    repository = load(tmp_path)
    repository.follow(
        repository.plan.name("pets", "stable", "1").name("pets", "gone", "2").unload("pets", "2")
    )
    assert repository.info("pets", "stable") is repository.info("pets", "1")
    assert repository.info(None, "stable").version == "1"
    assert repository.describe()[0]["aliases"] == {"gone": "2", "stable": "1"}
    with pytest.raises(NotReady, match=r"pets version 2 \('gone'\) is not loaded"):
        repository.info("pets", "gone")
    with pytest.raises(NotFound, match="got 'canary'"):
        repository.info("pets", "canary")


WEIGHTS_OF = {number: build_linear(Linear(WEIGHTS * number, BIAS)) for number in range(3)}


class Serving(RuleBasedStateMachine):
    """Whatever happens to the folder and the plan, what must serve does, with the files it was loaded with.

    The model: what lies in the folder, which versions are wanted, and what of them serves which weights.
    """

    MODELS = st.sampled_from(["cats", "cats", "dogs"])
    VERSIONS = st.sampled_from(["2", "10"])  # few, so that the same one is met again and again

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        write(self.folder, "fish", 1)  # always there, so that the folder is never empty
        self.repository = load(self.folder)
        self.files: dict[tuple[str, str], int | None] = {}
        self.known: dict[tuple[str, str], bool] = {}
        self.serving: dict[tuple[str, str], int] = {}
        self.found: list[tuple[HeadInfo, int]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def begin_with_two(self) -> None:
        for version in ("2", "10"):
            self.put("cats", version, 1)
        self.reload()

    @rule(model=MODELS, version=VERSIONS, weights=st.sampled_from([None, 0, 1, 2]))
    def put(self, model: str, version: str, weights: int | None) -> None:
        folder = self.folder / model / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(b"garbage" if weights is None else WEIGHTS_OF[weights])
        self.files[model, version] = weights

    @rule(model=MODELS, version=VERSIONS)
    def take_away(self, model: str, version: str) -> None:
        shutil.rmtree(self.folder / model / version, ignore_errors=True)
        self.files.pop((model, version), None)

    def look_at(self, keys: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        failed = set()
        for key in keys:
            self.known[key] = True
            weights = self.files[key]
            if weights is None:
                failed.add(key)
            else:
                self.serving[key] = weights
        return failed

    @rule()
    def reload(self) -> None:
        failures = self.repository.follow(self.repository.plan.reload(self.repository.stored()))
        for key in self.known.keys() - self.files.keys():
            del self.known[key]
            self.serving.pop(key, None)
        assert set(failures) == self.look_at(key for key in self.files if self.known.get(key, True))

    @rule(model=MODELS, version=st.none() | VERSIONS)
    def load(self, model: str, version: str | None) -> None:
        keys = [key for key in self.files if key[0] == model and key[1] == (version or key[1])]
        try:
            plan = self.repository.plan.load(self.repository.stored(), model, version)
        except NotFound:
            assert not keys
            return
        failures = self.repository.follow(plan)
        assert failures.keys() & set(keys) == self.look_at(keys)

    @rule(model=MODELS, version=st.none() | VERSIONS)
    def unload(self, model: str, version: str | None) -> None:
        keys = [key for key in self.known if key[0] == model and key[1] == (version or key[1])]
        try:
            plan = self.repository.plan.unload(model, version)
        except NotFound:
            assert not keys
            return
        self.repository.follow(plan)
        for key in keys:
            self.known[key] = False
            self.serving.pop(key, None)

    @rule(model=MODELS, version=st.none() | VERSIONS)
    def find(self, model: str, version: str | None) -> None:
        served = sorted(int(key[1]) for key in self.serving if key[0] == model)
        newest = str(served[-1]) if served else None
        wanted = version or newest
        try:
            info = self.repository.info(model, version)
        except NotFound:
            assert (model, version or "") not in self.known
            assert version or not any(key[0] == model for key in self.known)
            return
        except NotReady:
            assert (model, wanted) not in self.serving
            return
        assert info.version == wanted
        self.found.append((info, self.serving[model, info.version]))

    @rule()
    def let_go(self) -> None:
        self.repository.release(time.monotonic())
        self.found.clear()

    @invariant()
    def whoever_found_a_version_gets_its_numbers(self) -> None:
        for info, weights in self.found:
            logits = self.repository.head(info).run(np.ones((1, 3), np.float32))
            np.testing.assert_array_equal(logits, (np.ones((1, 3)) @ WEIGHTS * weights + BIAS))

    @invariant()
    def the_newest_is_the_default(self) -> None:
        for model in self.repository.describe():
            served = [int(version) for name, version in self.serving if name == model["name"]]
            assert model["name"] == "fish" or model["default_version"] == (
                str(max(served)) if served else None
            )

    @invariant()
    def the_states_are_told(self) -> None:
        told = {
            (model, version): state
            for model, versions in states(self.repository).items()
            for version, state in versions.items()
            if model != "fish"
        }
        assert told.keys() == self.known.keys()
        assert {key for key, state in told.items() if state == "ready"} == self.serving.keys()
        unloaded = {key for key, state in told.items() if state == "unloaded"}
        assert unloaded == {key for key, wanted in self.known.items() if not wanted}


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
