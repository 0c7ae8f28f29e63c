"""The V2 protocol's tensors under a media type that says how long the JSON is."""

import numpy as np
import pytest
from conftest import MODELS

from service.api.exchange import Answer, Exchange
from service.api.raw import RawTensors
from service.api.scoring import Scoring
from service.errors import Malformed, NotFound
from service.heads.repository import Repository
from service.metrics import Metrics
from service.outcomes import awaited
from service.scorer import Scorer
from service.wire import v2
from service.wire.limits import Limits

pytestmark = pytest.mark.anyio

LIMITS = Limits(body_bytes=16 << 20, rows=1000, elements=1 << 20, json_depth=32)
FEATURES = np.arange(128, dtype=np.float32).reshape(2, 64) % 17
MEDIA_TYPE = "application/x-tensors;json-length="


@pytest.fixture
def raw() -> RawTensors:
    repository = Repository(MODELS)
    repository.load()
    scorer = Scorer(repository)
    return RawTensors(Scoring(scorer, Metrics(), LIMITS), scorer.head_info, MEDIA_TYPE)


async def outcome(raw: RawTensors, body: bytes, json_length: str, model: str | None = None) -> Answer:
    exchange = Exchange({}, "POST", "1", 5, 1 << 20)
    return await awaited(lambda deliver, _gone: raw.begin(exchange, body, deliver, json_length, model))


@pytest.mark.parametrize("model", [None, "digits"])
async def test_the_media_type_of_the_answer_says_where_its_json_ends(
    raw: RawTensors, model: str | None
) -> None:
    body = v2.encode_request({"features": FEATURES})
    answer = await outcome(raw, body.content, str(body.json_bytes), model)
    assert answer.media_type.startswith(MEDIA_TYPE)
    found = v2.decode_result(answer.body, answer.media_type.removeprefix(MEDIA_TYPE))
    assert found["probabilities"].shape == (2, 10)


async def test_an_answer_without_bytes_is_json(raw: RawTensors) -> None:
    body = v2.encode_request({"features": FEATURES}, outputs=["classes"], binary=False).content
    answer = await outcome(raw, body, str(len(body)))
    assert answer.media_type == "application/json"
    assert v2.decode_result(answer.body, None)["classes"].tolist() == [7, 1]


async def test_an_operation_is_a_model(raw: RawTensors) -> None:
    body = v2.encode_request({"logits": np.zeros((1, 2))})
    answer = await outcome(raw, body.content, str(body.json_bytes), "softmax")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("json_length", "model", "kind"),
    [("x", None, Malformed), ("999", None, Malformed), ("0", "cats", NotFound)],
)
async def test_a_fault_is_delivered(
    raw: RawTensors, json_length: str, model: str | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await outcome(raw, FEATURES.tobytes()[:128], json_length, model)
