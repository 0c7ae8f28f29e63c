"""The language identifier of py3langid: served, it says of every sentence what the package says.

The sentences are the first of the Universal Declaration of Human Rights in 26 languages.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from py3langid import langid
from scipy.sparse import csr_array

from service.client import AsyncClient

pytestmark = pytest.mark.anyio

SENTENCES: dict[str, str] = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def identifier() -> langid.LanguageIdentifier:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


def features_of(identifier: langid.LanguageIdentifier, texts: list[str]) -> csr_array:
    """How often each of 100,053 byte sequences occurs, as log(1 + count): what the package multiplies by."""
    counted: list[Mapping[int, int]] = [
        langid.visit_counts(
            identifier.tk_nextmove, identifier._rowbase, identifier.tk_output, identifier._encode(text)
        )
        for text in texts
    ]
    indptr = np.cumsum([0, *map(len, counted)])
    indices = np.concatenate([np.fromiter(counts, np.int64) for counts in counted])
    data = np.concatenate([np.fromiter(counts.values(), np.float32) for counts in counted])
    return csr_array((np.log1p(data), indices, indptr), shape=(len(texts), len(identifier.nb_ptc)))


def code_of(name: str) -> str:
    """The package's own name of a column: some languages have two."""
    return name.partition("-")[0]


async def test_the_language_of_every_sentence(
    client: httpx.AsyncClient, identifier: langid.LanguageIdentifier
) -> None:
    texts = list(SENTENCES.values())
    async with AsyncClient("http://service", transport=client._transport) as ours:
        answer = await ours.predict(
            features_of(identifier, texts), model="languages", outputs=["logits", "predicted_names"]
        )
    said = [identifier.classify(text)[0] for text in texts]
    assert [code_of(name) for name in answer.predicted_names] == said
    assert (
        sum(given == true for given, true in zip(said, SENTENCES, strict=True)) >= 24
    )  # the head is good, too
    scores = np.stack([identifier._raw_score(identifier._encode(text)) for text in texts])
    np.testing.assert_allclose(answer.logits, scores, rtol=1e-5)


@pytest.mark.parametrize("language", ["en", "sr", "ja", "sw"])
async def test_a_temperature_makes_the_probabilities_of_the_package(
    client: httpx.AsyncClient, language: str
) -> None:
    normalising = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    text = SENTENCES[language]
    async with AsyncClient("http://service", transport=client._transport) as ours:
        answer = await ours.predict(
            features_of(normalising, [text]),
            model="languages",
            temperature=math.sqrt(len(normalising._encode(text))),
            outputs=["probabilities"],
        )
    found = dict.fromkeys(normalising.labels, 0.0)
    for column, probability in enumerate(answer.probabilities[0]):
        found[normalising.nb_classes[column]] += float(probability)
    for code, probability in normalising.rank(text):
        assert found[code] == pytest.approx(probability, rel=1e-4, abs=1e-7)


async def test_every_spelling_of_the_features_is_the_same_question(
    client: httpx.AsyncClient, identifier: langid.LanguageIdentifier
) -> None:
    rows = features_of(identifier, [SENTENCES["pl"], SENTENCES["ko"]])
    sparse = {
        "indptr": rows.indptr.tolist(),
        "indices": rows.indices.tolist(),
        "data": rows.data.tolist(),
        "num_features": rows.shape[1],
    }
    answers = []
    for features in (sparse, rows.toarray().tolist()):
        answer = await client.post("/models/languages/predict", json={"features": features})
        assert answer.status_code == 200, answer.text
        answers.append(answer.json()["predicted_names"])
    assert answers == [["pl", "ko"]] * 2


def test_the_licence_lies_beside_the_head(heads: Path) -> None:
    text = (heads / "languages" / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("py3langid ")
    assert "Redistribution and use in source and binary forms" in text
