"""Plans: what should serve, made of what did and of what lies in the folder."""

import json
from pathlib import Path

import pytest

from service.errors import Invalid, NotFound
from service.heads.plan import Plan
from service.heads.policy import read_policy
from service.heads.storage import StoredVersion


def stored(**models: list[int]) -> list[StoredVersion]:
    return [
        StoredVersion(model, version, Path(f"/{model}/{version}/model.onnx"), None)
        for model, versions in models.items()
        for version in versions
    ]


PETS = Plan().reload(stored(pets=[1, 2, 10], cars=[1]))


def wanted(plan: Plan) -> set[tuple[str, str]]:
    return {key for key, _ in plan.wanted()}


def test_at_first_all_that_lies_there_is_wanted_in_order() -> None:
    assert PETS.versions == {"cars": {"1": 1}, "pets": {"1": 1, "2": 1, "10": 1}}
    assert list(PETS.versions["pets"]) == ["1", "2", "10"], "as numbers"
    assert PETS.asked_last() == wanted(PETS)


def test_a_plan_survives_being_written_as_json() -> None:
    plan = PETS.unload("pets", "2").name("pets", "stable", "1")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_one_version_is_unloaded_and_loaded_again() -> None:
    without = PETS.unload("pets", "2")
    assert wanted(PETS) - wanted(without) == {("pets", "2")}
    again = without.load(stored(pets=[1, 2, 10]), "pets", "2")
    assert wanted(again) == wanted(PETS)
    assert again.asked_last() == {("pets", "2")}
    assert list(again.versions["pets"]) == ["1", "2", "10"]


def test_a_whole_model_is_unloaded_and_loaded_again() -> None:
    without = PETS.unload("pets", None)
    assert wanted(without) == {("cars", "1")}
    assert set(without.versions["pets"]) == {"1", "2", "10"}, "it is still known"
    again = without.load(stored(pets=[1, 2, 11]), "pets", None)
    assert again.asked_last() == {("pets", "1"), ("pets", "2"), ("pets", "11")}
    assert again.versions["pets"]["10"] is None


def test_each_load_has_a_number_of_its_own_even_when_nothing_was_left() -> None:
    """A worker that sees only the last of several plans must still notice that files were asked for anew."""
    plan, asks = PETS, [PETS.ask]
    for _ in range(3):
        plan = plan.unload("cars", None).unload("pets", None).load(stored(cars=[1]), "cars", None)
        asks.append(plan.ask)
    assert len(set(asks)) == 4


def test_a_reload_takes_what_is_new_drops_what_has_gone_and_keeps_what_was_unloaded() -> None:
    plan = PETS.unload("pets", "1").reload(stored(pets=[1, 10, 11], fish=[3]))
    assert set(plan.versions) == {"pets", "fish"}
    assert plan.versions["pets"] == {"1": None, "10": 2, "11": 2}
    assert plan.asked_last() == wanted(plan)


def test_a_load_finds_what_is_new_in_the_folder() -> None:
    plan = PETS.load(stored(pets=[1, 3], fish=[1]), "pets", "3")
    assert list(plan.versions["pets"]) == ["1", "2", "3", "10"]
    assert "fish" not in plan.versions, "nobody asked for it"
    assert set(plan.load(stored(fish=[1]), "fish", "1").versions) == {"cars", "fish", "pets"}


@pytest.mark.parametrize(
    ("model", "version", "code"),
    [("fish", None, "unknown_model"), ("fish", "1", "unknown_model"), ("pets", "3", "unknown_version")],
)
def test_what_is_not_known_is_told_what_is(model: str, version: str | None, code: str) -> None:
    for change in (PETS.unload, lambda *names: PETS.load(stored(pets=[1, 2, 10], cars=[1]), *names)):
        with pytest.raises(NotFound) as raised:
            change(model, version)
        assert raised.value.code == code
        assert ("'cars', 'pets'" if code == "unknown_model" else "'1', '2', '10'") in raised.value.message


def test_a_version_that_vanished_cannot_be_loaded_but_unloaded() -> None:
    with pytest.raises(NotFound):
        PETS.load(stored(pets=[1]), "pets", "2")
    with pytest.raises(NotFound):
        PETS.load([], "pets", None)
    assert PETS.unload("pets", "2").versions["pets"]["2"] is None


def test_a_name_stands_for_a_version_until_it_is_taken_away() -> None:
    plan = PETS.name("pets", "stable", "1").name("pets", "canary", "10").name("pets", "stable", "2")
    assert plan.aliases == {"pets": {"canary": "10", "stable": "2"}}
    assert plan.name("pets", "stable", None).aliases == {"pets": {"canary": "10"}}
    assert plan.name("pets", "nobody", None).aliases == plan.aliases
    assert (plan.ask, plan.versions) == (PETS.ask, PETS.versions), "no file is looked at for it"


def test_names_go_with_their_model() -> None:
    plan = PETS.name("pets", "stable", "1").name("cars", "stable", "1")
    assert plan.reload(stored(pets=[1])).aliases == {"pets": {"stable": "1"}}
    assert plan.unload("pets", None).aliases == plan.aliases


@pytest.mark.parametrize("alias", ["", "1", "01", "1st", "-x", "a b", "a/b", "ä", "x" * 65])
def test_a_name_that_could_be_taken_for_something_else_is_refused(alias: str) -> None:
    with pytest.raises(Invalid, match="alias: expected a letter") as raised:
        PETS.name("pets", alias, "1")
    assert raised.value.code == "option_type"
    assert len(raised.value.detail) < 200


@pytest.mark.parametrize("alias", ["stable", "v1", "A.b-c_d", "x" * 64])
def test_a_name_may_be_any_word(alias: str) -> None:
    assert PETS.name("pets", alias, "1").aliases == {"pets": {alias: "1"}}


def test_a_name_needs_a_version_that_is_known() -> None:
    with pytest.raises(NotFound, match="version"):
        PETS.name("pets", "stable", "3")
    with pytest.raises(NotFound, match="version"):
        PETS.name("pets", "stable", "canary")
    with pytest.raises(NotFound, match="model"):
        PETS.name("fish", "stable", "1")


# A policy


NEWEST = read_policy("latest:1")


def test_at_first_only_what_the_policy_wants_is_wanted() -> None:
    plan = Plan().reload(stored(pets=[1, 2, 10], cars=[1]), read_policy("latest:2;cars=specific:7"))
    assert plan.versions == {"cars": {"1": None}, "pets": {"1": None, "2": 1, "10": 1}}


def test_a_newer_version_takes_the_place_of_the_oldest_once_it_serves() -> None:
    plan = Plan().reload(stored(pets=[1, 2]), NEWEST).reload(stored(pets=[1, 2, 3]), NEWEST)
    assert wanted(plan) == {("pets", "2"), ("pets", "3")}, "until it is known that 3 serves"
    assert wanted(plan.settle(NEWEST, [])) == {("pets", "3")}


def test_a_newer_version_that_fails_leaves_the_older_serving() -> None:
    plan = Plan().reload(stored(pets=[1, 2]), NEWEST).reload(stored(pets=[1, 2, 3]), NEWEST)
    failed = plan.settle(NEWEST, [("pets", "3")])
    assert wanted(failed) == {("pets", "2"), ("pets", "3")}
    again = failed.reload(stored(pets=[1, 2, 3, 4]), NEWEST)
    assert wanted(again.settle(NEWEST, [("pets", "3"), ("pets", "4")])) == {("pets", "2"), ("pets", "4")}
    assert wanted(again.settle(NEWEST, [("pets", "3")])) == {("pets", "4")}


def test_what_was_loaded_or_unloaded_by_name_is_left_alone_by_the_policy() -> None:
    lying = stored(pets=[1, 2, 3])
    plan = Plan().reload(lying, NEWEST).load(lying, "pets", "1", NEWEST).unload("pets", "3")
    for _ in range(2):
        plan = plan.reload(lying, NEWEST).settle(NEWEST, [])
        assert wanted(plan) == {("pets", "1")}
    plan = plan.reload([*lying, *stored(pets=[4])], NEWEST).settle(NEWEST, [])
    assert wanted(plan) == {("pets", "1"), ("pets", "4")}
    vanished = plan.reload(stored(pets=[2, 4]), NEWEST)
    assert wanted(vanished.reload(lying, NEWEST).settle(NEWEST, [])) == {("pets", "3")}, "nobody named this 1"


def test_a_whole_model_is_loaded_as_the_policy_wants_it() -> None:
    lying = stored(pets=[1, 2, 3])
    plan = Plan().reload(lying, NEWEST).unload("pets", None)
    assert wanted(plan.reload(lying, NEWEST)) == set()
    plan = plan.load(lying, "pets", None, NEWEST)
    assert wanted(plan) == {("pets", "3")}
    assert wanted(plan.reload([*lying, *stored(pets=[4])], NEWEST).settle(NEWEST, [])) == {("pets", "4")}


# What is noticed


def marked(mark: str, *versions: int) -> list[StoredVersion]:
    return [found._replace(mark=mark) for found in stored(pets=list(versions))]


def test_what_is_as_it_was_is_not_looked_at_again() -> None:
    plan = Plan().reload(marked("a", 1, 2))
    assert plan.notice(marked("a", 1, 2)) is plan
    assert plan.reload(marked("a", 1, 2)).asked_last() == wanted(plan), "but whoever asks has it looked at"


def test_only_what_changed_is_looked_at_again() -> None:
    plan = Plan().reload(marked("a", 1, 2))
    noticed = plan.notice([*marked("a", 1), *marked("b", 2), *marked("c", 3)])
    assert noticed.asked_last() == {("pets", "2"), ("pets", "3")}
    assert noticed.versions["pets"]["1"] == plan.ask
    assert wanted(plan.notice(marked("a", 2))) == {("pets", "2")}
    described = marked("a", 1)[0]._replace(description_path=Path("/pets/1/head.json"))
    assert plan.notice([described, *marked("a", 2)]).asked_last() == {("pets", "1")}


def test_what_was_unloaded_stays_so_whatever_is_noticed() -> None:
    plan = Plan().reload(marked("a", 1, 2)).unload("pets", "1")
    noticed = plan.notice(marked("b", 1, 2))
    assert wanted(noticed) == {("pets", "2")}
    assert noticed.notice(marked("b", 1, 2)) is noticed
