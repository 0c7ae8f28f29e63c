"""Which versions a policy chooses."""

import pytest

from service.errors import StartError
from service.heads.policy import EVERYTHING, read_policy
from service.settings import Settings

VERSIONS = ["1", "2", "9", "10"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", {"1", "2", "9", "10"}),
        ("latest:1", {"10"}),
        ("latest:3", {"2", "9", "10"}),
        ("latest:4", {"1", "2", "9", "10"}),
        ("latest:99", {"1", "2", "9", "10"}),
        ("specific:1,9", {"1", "9"}),
        ("specific:9,9,3", {"9"}),
        ("specific:3", set()),
        ("latest:1;pets=specific:2", {"2"}),
        ("pets=latest:2", {"9", "10"}),
        ("cars=latest:2", {"1", "2", "9", "10"}),
        ("cars=all;latest:1", {"10"}),
    ],
)
def test_it_chooses_by_number(text: str, chosen: set[str]) -> None:
    assert Settings(version_policy=text).version_policy == text
    assert read_policy(text).pick("pets", VERSIONS) == chosen
    assert read_policy(text).pick("pets", VERSIONS[::-1]) == chosen
    assert read_policy(text).pick("pets", []) == set()


def test_the_rule_of_a_model_is_told() -> None:
    policy = read_policy("latest:2;a.b=specific:1,3")
    assert (policy.rule("a.b"), policy.rule("pets")) == ("specific:1,3", "latest:2")
    assert read_policy("all") == EVERYTHING


@pytest.mark.parametrize(("text", "model"), [("all;latest:1", "all others"), ("a=all;b=all;a=all", "a")])
def test_two_rules_for_one_model_are_a_slip(text: str, model: str) -> None:
    with pytest.raises(StartError, match=f"version_policy: expected one rule for {model}, got two"):
        read_policy(text)


NO_POLICIES = [
    "newest",
    "latest",
    "latest:0",
    "latest:-1",
    "latest:01",
    "latest:1,2",
    "specific:",
    "specific:1,",
    "specific:v1",
    "ALL",
    "all;",
    ";all",
    "=all",
    "a=b=all",
    "latest:9999999999999999999",
]


@pytest.mark.parametrize("text", [*NO_POLICIES, "", "a b=all", "all\n"])
def test_what_is_no_policy_never_gets_that_far(text: str) -> None:
    with pytest.raises(ValueError, match="version_policy"):
        Settings(version_policy=text)
