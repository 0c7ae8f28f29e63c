"""What a server speaks and what it calls things, found out from small servers that describe themselves."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from listening import listening
from strangers import described, serving
from test_conformance_vectors import named

from service.conformance.dialect import Dialect, Tensor
from service.conformance.discovery import ALL_OPTIONS, Asked, connect, discover
from service.errors import StartError


def found(gets: Mapping[str, Any], asked: Asked = Asked()) -> Dialect:  # noqa: B008 - it is frozen
    with listening(serving(dict(gets))) as url, connect(url) as http:
        return discover(http, asked)


def test_a_service_that_describes_its_paths_is_asked_in_json() -> None:
    dialect = found({"/openapi.json": described("/softmax", "/loss")})
    assert dialect.name == "native"
    assert dialect.words.options == frozenset()
    assert dialect.words.ranks == {"softmax": 2, "loss": 2}
    assert dialect.words.targets == {"softmax": ("softmax",), "loss": ("loss",)}


def test_options_are_those_that_the_service_describes_by_its_own_names() -> None:
    schema: dict[str, Any] = {
        "properties": {"logits": {}, "labels": {}, "axis": {}, "smoothing": {}, "strange": {}}
    }
    document = described("/softmax", "/loss", schema=schema)
    renamed = {"label_smoothing": "smoothing"}
    dialect = found({"/openapi.json": document}, Asked(renamed=renamed))
    assert dialect.words.options == {"axis", "label_smoothing"}
    assert dialect.words.theirs("label_smoothing") == "smoothing"
    told = found({"/openapi.json": document}, Asked(options=frozenset({"temperature"})))
    assert told.words.options == {"temperature"}


@pytest.mark.parametrize(
    ("logits", "ranks"),
    [
        ({"type": "array", "items": {"type": "number"}}, {"softmax": 1}),
        ({"type": "array", "items": {"anyOf": []}}, {}),
        ({"type": "array"}, {}),
        ({}, {}),
    ],
)
def test_a_rank_is_known_where_the_schema_says_it_for_sure(logits: Any, ranks: Any) -> None:
    document = described("/softmax", schema={"properties": {"logits": logits}})
    assert found({"/openapi.json": document}).words.ranks == ranks


def test_a_path_that_is_not_described_is_not_asked() -> None:
    dialect = found({"/openapi.json": described("/softmax")})
    assert dialect.cannot_say(named("seed_ce_index_mean")) == "the server has no loss"
    other = Asked(targets={"softmax": ("api/scores",), "loss": ("loss",)})
    assert found({"/openapi.json": described("/api/scores")}, other).words.targets["softmax"] == (
        "api/scores",
    )


@pytest.mark.parametrize("dialect", ["native", "v2", "v1"])
def test_our_own_service_reads_every_option_in_every_protocol(dialect: str) -> None:
    gets = {"/openapi.json": described("/softmax", title="logitserve")}
    assert found(gets, Asked(dialect=dialect)).words.options == ALL_OPTIONS
    told = found(gets, Asked(dialect=dialect, options=frozenset({"axis"})))
    assert told.words.options == {"axis"}


def test_a_service_that_describes_nothing_is_asked_for_as_little_as_possible() -> None:
    dialect = found({}, Asked(dialect="native"))
    assert dialect.words.options == frozenset()
    assert dialect.words.ranks == {}


LOSS = {
    "name": "loss",
    "inputs": [
        {"name": "logits", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "labels", "datatype": "INT64", "shape": []},
    ],
    "outputs": [{"name": "losses", "datatype": "FP32", "shape": [-1]}],
}


def test_a_v2_server_is_asked_for_the_tensors_of_its_models() -> None:
    dialect = found({"/v2/models/loss": LOSS, "/v2": {"name": "other"}})
    assert dialect.name == "v2"
    assert dialect.words.models["loss"].inputs == (
        Tensor("logits", "FP32", 2),
        Tensor("labels", "INT64", None),
    )
    assert dialect.words.models["loss"].outputs == (Tensor("losses", "FP32", 1),)
    assert dialect.words.targets == {"softmax": (), "loss": ("loss",)}


def test_a_v2_server_that_describes_no_model_may_have_them_all_the_same() -> None:
    dialect = found({"/v2": {"name": "other"}})
    assert (dialect.name, dialect.words.models) == ("v2", {})
    assert dialect.words.targets["loss"] == ("loss",)
    assert found({"/v2": {}, "/v2/models/softmax": {"name": "softmax"}}).words.models["softmax"].inputs == ()


def test_a_v1_server_is_known_by_its_models() -> None:
    assert found({"/v1/models/softmax": {"model_version_status": []}}).name == "v1"


def test_a_server_that_speaks_nothing_known_is_named_with_what_to_do() -> None:
    with pytest.raises(StartError, match=r"neither /softmax, /loss in /openapi.json.*--dialect"):
        found({"/openapi.json": ["no object"], "/v2": "no object"})


def test_raw_bytes_need_a_protocol_that_has_them() -> None:
    with pytest.raises(StartError, match="no raw bytes"):
        found({}, Asked(dialect="v1", binary=True))
    assert replace(Asked(), binary=True).binary
    assert found({}, Asked(dialect="v2", binary=True)).binary


def test_nobody_at_the_address_is_said_in_one_line() -> None:
    with listening(serving({})) as url:
        pass
    with connect(url) as http, pytest.raises(StartError, match=f"^nobody answers at {url}: "):
        discover(http, Asked())


def test_headers_are_sent() -> None:
    with connect("http://server", {"authorization": "Bearer x"}) as http:
        assert http.build_request("GET", "/").headers["authorization"] == "Bearer x"
