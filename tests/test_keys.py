"""Keys: how they are made, written down and read, and that none is repeated in an error."""

import math
import re
from datetime import UTC, datetime

import pytest

from service import keys
from service.errors import StartError
from service.keys import Key

DIGEST = keys.digest_of(b"correct-horse")
SHA256 = DIGEST.hex()
GOOD = f'sha256 = "{SHA256}", scopes = ["infer"]'
NEW_YEAR_S = datetime(2030, 1, 1, tzinfo=UTC).timestamp()


def read(text: str) -> list[Key]:
    return keys.read(text, "keys.toml")


def refused(text: str) -> str:
    with pytest.raises(StartError) as caught:
        read(text)
    said = str(caught.value)
    assert said.startswith("keys.toml: ")
    assert "\n" not in said
    return said.removeprefix("keys.toml: ")


def test_a_new_key_is_random_and_fits_a_header_and_a_name_never() -> None:
    made = {keys.new() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert re.fullmatch("logitserve_[A-Za-z0-9_-]{43}", key), "43 digits of base64 are 256 bits"
        assert not keys.NAME.fullmatch(key)


def test_a_digest_is_that_of_sha256sum() -> None:
    # printf %s correct-horse | sha256sum
    assert SHA256 == "9dca666eb54730714630d1519264a7bf1eeaad00b8f2edc90d3ecbfad928d163"


@pytest.mark.parametrize(
    "scopes", [{"infer"}, {"infer", "metrics"}, {"admin"}, {"infer", "metrics", "admin"}]
)
@pytest.mark.parametrize("expires_s", [math.inf, NEW_YEAR_S, NEW_YEAR_S + 0.5])
def test_what_is_written_is_read_back(scopes: set[keys.Grant], expires_s: float) -> None:
    key = Key("mobile-app_2", DIGEST, frozenset(scopes), expires_s)
    line = keys.line_of(key)
    assert "\n" not in line
    assert read(line) == [key]


def test_a_file_has_a_key_a_line_and_comments() -> None:
    other = keys.digest_of(b"other").hex().upper()
    text = (
        f"# who is who\na = {{ {GOOD} }}  # since May\n"
        f'b = {{ sha256 = "{other}", scopes = ["metrics"], expires = 2030-01-01 }}\n'
    )
    a, b = read(text)
    assert a == Key("a", DIGEST, frozenset({"infer"}))
    assert a.expires_s == math.inf
    assert b == Key("b", bytes.fromhex(other), frozenset({"metrics"}), NEW_YEAR_S), "a date begins in UTC"


def test_a_table_of_several_lines_is_the_same() -> None:
    text = f'[a]\nsha256 = "{SHA256}"\nscopes = ["infer"]\nexpires = 2030-01-01T02:00:00+02:00\n'
    assert read(text) == [Key("a", DIGEST, frozenset({"infer"}), NEW_YEAR_S)]


@pytest.mark.parametrize("text", ["", "\n", "# nobody\n"])
def test_no_key_is_not_nobody(text: str) -> None:
    assert refused(text).startswith("expected at least one key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a =", "not valid TOML: "),
        (f"a = {{ {GOOD} }}\na = {{ {GOOD} }}", "not valid TOML: "),
        ("x = " + "[" * 10_000, "not valid TOML: "),
        (f"a = {{ {GOOD} }}\nb = {{ {GOOD} }}", "a and b are the same key"),
        ("a = 1", "a: expected { sha256"),
        ("a = {}", "a: sha256: expected 64 hexadecimal digits"),
        (f'a = {{ sha256 = "{SHA256[1:]}", scopes = ["infer"] }}', "a: sha256: expected 64"),
        (f'a = {{ sha256 = "{SHA256}0", scopes = ["infer"] }}', "a: sha256: expected 64"),
        ('a = { sha256 = 1, scopes = ["infer"] }', "a: sha256: expected 64"),
        (f'a = {{ sha256 = "{SHA256}" }}', "a: scopes: expected a list of some of infer, metrics, admin"),
        (f'a = {{ sha256 = "{SHA256}", scopes = [] }}', "a: scopes: expected a list"),
        (f'a = {{ sha256 = "{SHA256}", scopes = "infer" }}', "a: scopes: expected a list"),
        (f'a = {{ sha256 = "{SHA256}", scopes = ["open"] }}', "a: scopes: expected a list"),
        (f'a = {{ sha256 = "{SHA256}", scopes = [["infer"]] }}', "a: scopes: expected a list"),
        (f'a = {{ {GOOD}, expire = "x" }}', "a: unknown field 'expire'; expected sha256, scopes"),
        (f'a = {{ {GOOD}, expires = "2030-01-01" }}', "a: expires: expected a date"),
        (f"a = {{ {GOOD}, expires = 2030-01-01T00:00:00 }}", "a: expires: expected a date, or a time with Z"),
        (f"a = {{ {GOOD}, expires = 12:00:00 }}", "a: expires: expected a date"),
        (f'"a b" = {{ {GOOD} }}', "key 1: expected a name of at most 40"),
        (f'"" = {{ {GOOD} }}', "key 1: expected a name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str) -> None:
    assert refused(text).startswith(said)


def test_a_key_that_stands_where_its_hash_or_its_name_belongs_is_not_repeated() -> None:
    key = keys.new()
    for text in (
        f'a = {{ sha256 = "{key}", scopes = ["infer"] }}',
        f"{key} = {{ {GOOD} }}",
        f'a = "{key}"',
        key,
        f"a = {key}",
    ):
        assert key not in refused(text)


def test_keys_of_several_places_must_differ() -> None:
    a = Key("a", DIGEST, frozenset({"infer"}))
    keys.check_distinct([a, Key("b", bytes(32), a.scopes)], "here")
    with pytest.raises(StartError, match=r"^here: two keys are named a$"):
        keys.check_distinct([a, Key("a", bytes(32), a.scopes)], "here")
    with pytest.raises(StartError, match=r"^here: a and b are the same key$"):
        keys.check_distinct([a, Key("b", DIGEST, a.scopes)], "here")
