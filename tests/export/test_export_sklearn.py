"""scikit-learn: what is linear becomes a head with the same answers, and what is not is refused by name."""

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import ComplementNB, GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC

from service.export.exporter import Exported, export
from service.export.sklearn import read, read_estimator
from service.export.source import ExportError, Options, Source
from service.heads.graphs import Linear

WINE = load_wine(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
FLOAT32 = np.dtype(np.float32)


def logistic(**changed: Any) -> LogisticRegression:
    return LogisticRegression(**{"max_iter": 5000, **changed})


CALIBRATED = {
    "logistic regression": make_pipeline(StandardScaler(), logistic()),
    "no intercept": make_pipeline(StandardScaler(), logistic(fit_intercept=False)),
    "cross-validated": make_pipeline(
        MinMaxScaler(), LogisticRegressionCV(Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=False)
    ),
    "discriminant": LinearDiscriminantAnalysis(),
    "naive Bayes": MultinomialNB(),
    "complement naive Bayes": ComplementNB(),
    "whitened components": make_pipeline(StandardScaler(), PCA(5, whiten=True), logistic()),
    "components of raw features": make_pipeline(PCA(4), StandardScaler(), LinearDiscriminantAnalysis()),
    "components in batches": make_pipeline(StandardScaler(), IncrementalPCA(4), logistic()),
    "singular vectors": make_pipeline(RobustScaler(), TruncatedSVD(4), LinearDiscriminantAnalysis()),
    "selected then scaled": make_pipeline(SelectKBest(k=6), StandardScaler(), logistic()),
    "scaled then selected": make_pipeline(MinMaxScaler((-1, 3)), SelectKBest(k=6), logistic()),
    "pipelines inside": make_pipeline(
        VarianceThreshold(), make_pipeline(StandardScaler(), "passthrough"), FunctionTransformer(), logistic()
    ),
    "halves of scalers": make_pipeline(
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        RobustScaler(with_centering=False),
        logistic(),
    ),
    "maxima": make_pipeline(MaxAbsScaler(), logistic()),
    "sparse coefficients": make_pipeline(StandardScaler(), logistic(C=0.1, l1_ratio=1, solver="saga")),
}
SCORES = {
    "margins": make_pipeline(StandardScaler(), LinearSVC()),
    "ridge": RidgeClassifier(),
    "perceptron": Perceptron(),
    "hinge": make_pipeline(StandardScaler(), SGDClassifier(random_state=0)),
    "one versus rest": make_pipeline(StandardScaler(), OneVsRestClassifier(LinearSVC())),
}


# LogisticRegressionCV tells of defaults that will change.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("data", [WINE, CANCER], ids=["wine", "cancer"])
@pytest.mark.parametrize("name", CALIBRATED)
def test_the_head_gives_the_probabilities_of_the_estimator(tmp_path: Path, name: str, data: Any) -> None:
    estimator, (rows, labels) = CALIBRATED[name], data
    estimator.fit(rows, labels)
    if name == "sparse coefficients":
        estimator[-1].sparsify()
    exported = export(read_estimator(estimator), tmp_path, model="m", rows=rows)
    probabilities = softmax(exported.head.run(rows))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(rows), atol=1e-11)
    assert exported.parity.classes == 0
    assert exported.source.calibrated


def softmax(logits: Any) -> Any:
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("data", [WINE, CANCER], ids=["wine", "cancer"])
@pytest.mark.parametrize("name", SCORES)
def test_scores_that_are_no_logits_are_served_only_when_they_are_asked_for(
    tmp_path: Path, name: str, data: Any
) -> None:
    estimator, (rows, labels) = SCORES[name], data
    estimator.fit(rows, labels)
    with pytest.raises(ExportError, match=r"its scores are not logits.*--as-scores"):
        read_estimator(estimator)
    exported = export(read_estimator(estimator, as_scores=True), tmp_path, model="m", rows=rows)
    assert not exported.source.calibrated
    names = np.array(exported.head.info.class_names)
    predicted = names[exported.head.run(rows).argmax(axis=1)]
    assert predicted.tolist() == [str(label) for label in estimator.predict(rows)]
    assert exported.parity.logits is not None
    assert exported.parity.logits < 1e-11


def test_a_sigmoid_of_one_score_is_calibrated_as_far_as_two_classes_go() -> None:
    sgd = SGDClassifier(loss="log_loss", random_state=0)
    ovr = OneVsRestClassifier(logistic())
    for estimator in (make_pipeline(StandardScaler(), sgd), make_pipeline(StandardScaler(), ovr)):
        assert read_estimator(estimator.fit(*CANCER)).calibrated
        assert not read_estimator(estimator.fit(*WINE), as_scores=True).calibrated


def test_a_float32_head_lies_as_near_as_float32_can(tmp_path: Path) -> None:
    rows, labels = WINE
    pipeline = make_pipeline(StandardScaler(), PCA(6), logistic()).fit(rows, labels)
    exported: Exported = export(read_estimator(pipeline), tmp_path, model="m", dtype=FLOAT32, rows=rows)
    probabilities = exported.parity.probabilities
    assert probabilities is not None
    assert 1e-12 < probabilities < 1e-5


def test_classes_have_the_names_of_the_labels(tmp_path: Path) -> None:
    rows, labels = WINE
    named = np.array(["red", "rosé", "white"])[labels]
    source = read_estimator(LinearDiscriminantAnalysis().fit(rows, named))
    assert source.class_names == ("red", "rosé", "white")
    assert source.notes == ("LinearDiscriminantAnalysis",)
    assert export(source, tmp_path, model="m").head.info.class_names == source.class_names


def test_rows_are_drawn_where_the_features_lie() -> None:
    rows, labels = CANCER
    for pipeline in (
        make_pipeline(StandardScaler(), PCA(3), logistic()),
        make_pipeline(SelectKBest(k=30), StandardScaler(), logistic()),
        make_pipeline(RobustScaler(), logistic()),
    ):
        drawn = read_estimator(pipeline.fit(rows, labels)).region.draw(500, 30)
        assert np.all(np.abs(drawn.mean(axis=0) - rows.mean(axis=0)) < 1.5 * rows.std(axis=0))
    assert read_estimator(MultinomialNB().fit(rows, labels)).region.draw(50, 30).min() >= 0


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (RandomForestClassifier(2), "RandomForestClassifier is not linear"),
        (GaussianNB(), "GaussianNB is not linear"),
        (CalibratedClassifierCV(logistic(), cv=2), "CalibratedClassifierCV is not linear"),
        (
            make_pipeline(PolynomialFeatures(), MinMaxScaler(), logistic()),
            "PolynomialFeatures cannot be folded",
        ),
        (make_pipeline(MinMaxScaler(clip=True), logistic()), "MinMaxScaler clips its features"),
        (make_pipeline(FunctionTransformer(np.log1p), logistic()), "FunctionTransformer cannot be folded"),
    ],
)
def test_what_is_not_linear_is_refused_by_name(estimator: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read_estimator(estimator.fit(*WINE))


@pytest.mark.parametrize(
    "estimator", [logistic(), MultinomialNB(), make_pipeline(StandardScaler(), logistic())]
)
def test_what_is_not_fitted_is_refused(estimator: Any) -> None:
    with pytest.raises(ExportError, match="expected a fitted estimator, got one without"):
        read_estimator(estimator)


def test_a_model_of_several_labels_a_row_is_refused() -> None:
    rows, labels = WINE
    several = OneVsRestClassifier(logistic()).fit(MinMaxScaler().fit_transform(rows), np.eye(3)[labels])
    with pytest.raises(ExportError, match="expected one label a row"):
        read_estimator(several, as_scores=True)


# Files


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline(StandardScaler(), SelectKBest(k=5), logistic()).fit(*WINE)


def weights(source: Source) -> Any:
    assert isinstance(source.head, Linear)
    return source.head.weights.tolist()


def test_a_skops_file_is_read(tmp_path: Path, pipeline: Any) -> None:
    skops.io.dump(pipeline, tmp_path / "m.skops")
    source = read(tmp_path / "m.skops", Options())
    assert source.file == tmp_path / "m.skops"
    assert weights(source) == weights(read_estimator(pipeline))
    assert export(source, tmp_path / "models", model="m").parity.holds


class Stranger(LogisticRegression):  # type: ignore[misc]
    """Not of scikit-learn, whatever it does."""


def test_a_skops_file_with_types_of_others_is_refused(tmp_path: Path) -> None:
    skops.io.dump(Stranger(), tmp_path / "m.skops")
    with pytest.raises(
        ExportError, match=r"expected types of scikit-learn, numpy and scipy only, got .*Stranger"
    ):
        read(tmp_path / "m.skops", Options())


def test_a_skops_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.skops").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="skops cannot read it: BadZipFile"):
        read(tmp_path / "m.skops", Options())


def test_a_skops_file_that_would_be_too_long_is_not_inflated(
    tmp_path: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.export.source.WEIGHTS_LIMIT_BYTES", 1000)
    skops.io.dump(pipeline, tmp_path / "m.skops")
    with pytest.raises(ExportError, match=r"m\.skops, inflated: expected at most 1000 bytes, got \d+"):
        read(tmp_path / "m.skops", Options())


@pytest.mark.parametrize("suffix", [".joblib", ".pkl"])
def test_a_pickle_is_read_only_where_it_is_trusted(tmp_path: Path, pipeline: Any, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(pipeline))
    else:
        joblib.dump(pipeline, path)
    with pytest.raises(
        ExportError, match="a pickle runs whatever code it holds as it is read: say --trust-pickle"
    ):
        read(path, Options())
    assert weights(read(path, Options(trust_pickle=True))) == weights(read_estimator(pipeline))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_is_not_trusted_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ExportError, match="--trust-pickle"):
        read(tmp_path / "m.pkl", Options())
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="it cannot be unpickled: "):
        read(tmp_path / "m.pkl", Options(trust_pickle=True))


@pytest.mark.parametrize(("library", "suffix"), [("skops", ".skops"), ("joblib", ".joblib")])
def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, suffix: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    (tmp_path / f"m{suffix}").touch()
    with pytest.raises(ExportError, match=f"m{suffix} needs {library}.*: pip install "):
        read(tmp_path / f"m{suffix}", Options(trust_pickle=True))
