"""scikit-learn: linear classifiers, alone or behind steps of a Pipeline that are linear too.

Knows what each estimator computes; what can be folded into weights and a bias is, and anything else is refused by
name. A .skops file is loaded without running anything that it brings; a pickle only if the user trusts it.
"""

import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from service.export.affine import fold, fold_scaled
from service.export.source import (
    FLOAT64,
    Answers,
    ExportError,
    Float64Array,
    Options,
    Region,
    Source,
    check_finite,
    check_size,
    listed,
    not_installed,
    of_two_classes,
)
from service.heads.graphs import Linear

UNDERSTOOD = frozenset({"as_scores", "trust_pickle"})
SKOPS = ".skops"
# Functions that SelectKBest and its like keep; skops trusts classes of scikit-learn by itself, but not these.
SCORE_FUNCTIONS = [
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
]
# Their predict_proba is the softmax of what they compute, or the sigmoid of one score.
CALIBRATED = {
    "LogisticRegression",
    "LogisticRegressionCV",
    "LinearDiscriminantAnalysis",
    "MultinomialNB",
    "ComplementNB",
}
# Their predict_proba is a sigmoid for each class, where they have any; of two classes it is the sigmoid of one score.
ONE_VERSUS_REST = {"SGDClassifier"}
MARGINS = {
    "LinearSVC",
    "PassiveAggressiveClassifier",
    "Perceptron",
    "RidgeClassifier",
    "RidgeClassifierCV",
}
NAIVE_BAYES = {"MultinomialNB", "ComplementNB"}


class _Fitted(NamedTuple):
    """A linear head, whether softmax of its logits gives the estimator's probabilities, and where features lie."""

    linear: Linear
    calibrated: bool
    region: Region


def read(path: Path, options: Options) -> Source:
    """Read an estimator from a file."""
    estimator = _load_skops(path) if path.suffix.lower() == SKOPS else _load_pickle(path, options)
    return replace(read_estimator(estimator, as_scores=options.as_scores), file=path)


def read_estimator(estimator: Any, *, as_scores: bool = False) -> Source:
    """Make a source of a fitted classifier in memory.

    Parameters
    ----------
    estimator : classifier or Pipeline
    as_scores : bool
        Whether a classifier is welcome whose probabilities are not the softmax of its scores, or that has none.

    Raises
    ------
    ExportError
        If it is not linear, not fitted, or its scores are not logits and `as_scores` is not said.
    """
    fitted = _fit(estimator, as_scores)
    classes = np.asarray(estimator.classes_)
    if classes.ndim != 1 or len(classes) != len(fitted.linear.bias):
        raise ExportError(f"{_name(estimator)}: expected one logit a class, got {len(fitted.linear.bias)}")
    for array, name in zip(fitted.linear, ("weights", "bias"), strict=True):
        check_finite(array, name)
    return Source(
        "sklearn",
        fitted.linear,
        FLOAT64,
        lambda rows: _answer(estimator, rows, fitted.calibrated),
        class_names=tuple(str(name) for name in classes.tolist()),
        region=fitted.region,
        notes=(_described(estimator),),
        calibrated=fitted.calibrated,
    )


def _fit(estimator: Any, as_scores: bool) -> _Fitted:  # noqa: FBT001 - passed on
    if hasattr(estimator, "steps"):
        return _fold_steps(estimator, as_scores)
    name = _name(estimator)
    if name in NAIVE_BAYES:
        _check_fitted(estimator, "feature_log_prob_")
        weights = np.asarray(estimator.feature_log_prob_, np.float64).T
        prior = np.asarray(estimator.class_log_prior_, np.float64)
        # ComplementNB takes the prior only where there is one class alone.
        bias = prior if name == "MultinomialNB" else np.zeros(len(prior))
        return _Fitted(Linear(weights, bias), calibrated=True, region=Region(1.0, 1.0, 0.0))
    if name == "OneVsRestClassifier":
        linear = _of_each_class(estimator)
        calibrated = len(estimator.classes_) == 2 and _is_calibrated(estimator.estimators_[0])
    elif name in CALIBRATED | ONE_VERSUS_REST | MARGINS:
        linear, calibrated = _of_coefficients(estimator), _is_calibrated(estimator)
    else:
        known = sorted(CALIBRATED | ONE_VERSUS_REST | MARGINS)
        raise ExportError(
            f"{name} is not linear as far as is known here: expected {', '.join(known)}, OneVsRestClassifier or a "
            "Pipeline that ends in one; other models come as ONNX (skl2onnx)"
        )
    if not calibrated and not as_scores:
        raise ExportError(
            f"{name}: its scores are not logits: softmax of them is no probability that it knows; --as-scores serves "
            "them all the same, and says so in head.json"
        )
    return _Fitted(linear, calibrated, Region())


def _is_calibrated(estimator: Any) -> bool:
    name, binary = _name(estimator), len(estimator.classes_) == 2
    if name in ONE_VERSUS_REST:
        return binary and estimator.loss == "log_loss"
    # Before scikit-learn 1.8 logistic regression could be one-versus-rest, too.
    ovr = (
        getattr(estimator, "multi_class", "auto") == "ovr" or getattr(estimator, "solver", "") == "liblinear"
    )
    return name in CALIBRATED and (binary or not ovr)


def _of_coefficients(estimator: Any) -> Linear:
    _check_fitted(estimator, "coef_")
    coefficients = estimator.coef_
    if hasattr(coefficients, "toarray"):  # after sparsify()
        coefficients = coefficients.toarray()
    weights = np.atleast_2d(_floats(coefficients)).T
    # Without an intercept it is the number 0.
    bias = _floats(estimator.intercept_) + np.zeros(weights.shape[1])
    linear = Linear(weights, bias)
    return linear if len(bias) > 1 else of_two_classes(linear)


def _of_each_class(estimator: Any) -> Linear:
    _check_fitted(estimator, "estimators_")
    if estimator.multilabel_:
        raise ExportError("OneVsRestClassifier: expected one label a row, got a model of several")
    if len(estimator.classes_) == 2:
        return _of_coefficients(estimator.estimators_[0])
    columns = [_of_coefficients(each) for each in estimator.estimators_]
    if any(column.weights.shape != columns[0].weights.shape for column in columns):
        raise ExportError("OneVsRestClassifier: expected estimators of the same features")
    weights = np.column_stack([column.weights[:, 1] for column in columns])
    return Linear(_floats(weights), _floats([column.bias[1] for column in columns]))


def _fold_steps(pipeline: Any, as_scores: bool) -> _Fitted:  # noqa: FBT001 - passed on
    *steps, (_, last) = pipeline.steps
    linear, calibrated, region = _fit(last, as_scores)
    for _, step in reversed(steps):
        linear, region = _fold_step(step, linear, region)
    return _Fitted(linear, calibrated, region)


def _fold_step(step: Any, linear: Linear, region: Region) -> tuple[Linear, Region]:
    name = _name(step)
    if step is None or step == "passthrough" or (name == "FunctionTransformer" and step.func is None):
        return linear, region
    if hasattr(step, "steps"):
        for _, inner in reversed(step.steps):
            linear, region = _fold_step(inner, linear, region)
        return linear, region
    if name in {"StandardScaler", "RobustScaler", "MinMaxScaler", "MaxAbsScaler"}:
        scale, offset = _scaler(step)
        # What a scaler makes of features has a size of about 1.
        return fold_scaled(scale, offset, linear), Region(-offset / scale, 1 / np.abs(scale))
    if name in {"PCA", "IncrementalPCA", "TruncatedSVD"}:
        matrix, offset = _projection(step)
        mean = getattr(step, "mean_", None)
        spread = np.sqrt(_floats(step.explained_variance_) @ _floats(step.components_) ** 2)
        return fold(matrix, offset, linear), Region(0.0 if mean is None else _floats(mean), spread)
    if hasattr(step, "get_support"):
        _check_fitted(step, "n_features_in_")
        return _widen(step.get_support(), linear, region)
    raise ExportError(
        f"Pipeline: {name} cannot be folded into weights: expected a scaler, PCA, TruncatedSVD or a selection of features"
    )


def _scaler(step: Any) -> tuple[Float64Array, Float64Array]:
    """What a scaler does to each feature: x * scale + offset."""
    if getattr(step, "clip", False):
        raise ExportError(f"Pipeline: {_name(step)} clips its features, which no linear head does")
    _check_fitted(step, "n_features_in_")
    num_features = step.n_features_in_
    if _name(step) == "MinMaxScaler":
        return _floats(step.scale_), _floats(step.min_)
    center = getattr(step, "mean_" if _name(step) == "StandardScaler" else "center_", None)
    if getattr(step, "with_mean", True) is False:  # fitted all the same, but not used
        center = None
    divisor = getattr(step, "scale_", None)
    scale = np.ones(num_features) if divisor is None else 1 / _floats(divisor)
    offset = np.zeros(num_features) if center is None else -_floats(center) * scale
    return scale, offset


def _projection(step: Any) -> tuple[Float64Array, Float64Array]:
    """What PCA and its like do: x @ matrix + offset."""
    _check_fitted(step, "components_")
    matrix = _floats(step.components_).T
    if getattr(step, "whiten", False):
        deviation = np.sqrt(_floats(step.explained_variance_))
        # As scikit-learn does: a component without variance is not divided by nothing.
        matrix = matrix / np.maximum(deviation, np.finfo(np.float64).eps)
    mean = getattr(step, "mean_", None)
    offset = np.zeros(matrix.shape[1]) if mean is None else -(_floats(mean) @ matrix)
    return matrix, offset


def _widen(support: Any, linear: Linear, region: Region) -> tuple[Linear, Region]:
    """Weights for all features, zero for those that are not selected."""
    weights = np.zeros((len(support), linear.weights.shape[1]))
    center, spread = np.zeros(len(support)), np.ones(len(support))
    weights[support], center[support], spread[support] = linear.weights, region.center, region.spread
    return Linear(weights, linear.bias), Region(center, spread, region.lowest)


def _answer(estimator: Any, rows: Float64Array, calibrated: bool) -> Answers:  # noqa: FBT001 - passed on
    method = (
        "predict_joint_log_proba" if hasattr(estimator, "predict_joint_log_proba") else "decision_function"
    )
    with warnings.catch_warnings():
        # Fitted to a table with names of columns, it warns of rows that have none.
        warnings.simplefilter("ignore")
        logits = _floats(getattr(estimator, method)(rows))
        probabilities = _floats(estimator.predict_proba(rows)) if calibrated else None
        predicted = estimator.predict(rows)
    if logits.ndim == 1:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    positions = {label: index for index, label in enumerate(estimator.classes_.tolist())}
    return Answers(
        logits, probabilities, np.array([positions[label] for label in predicted.tolist()], np.int64)
    )


def _load_skops(path: Path) -> Any:
    try:
        from skops import io  # noqa: PLC0415 - see the docstring of the package
    except ImportError as error:
        raise not_installed("skops", package="skops", what=path.name) from error
    check_size(_inflated_bytes(path), f"{path}, inflated")
    try:
        untrusted = sorted(set(io.get_untrusted_types(file=path)) - set(SCORE_FUNCTIONS))
        estimator = None if untrusted else io.load(path, trusted=SCORE_FUNCTIONS)
    except Exception as error:  # what a damaged file makes skops raise is not said
        raise ExportError(f"{path}: skops cannot read it: {_reason(error)}") from error
    if untrusted:
        raise ExportError(
            f"{path}: expected types of scikit-learn, numpy and scipy only, got {listed(untrusted)}"
        )
    return estimator


def _inflated_bytes(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise ExportError(f"{path}: skops cannot read it: {_reason(error)}") from error


def _load_pickle(path: Path, options: Options) -> Any:
    if not options.trust_pickle:
        raise ExportError(
            f"{path}: a pickle runs whatever code it holds as it is read: say --trust-pickle if you made it yourself, "
            "or save the model with skops"
        )
    try:
        import joblib  # noqa: PLC0415 - see the docstring of the package
    except ImportError as error:
        raise not_installed("joblib and scikit-learn", package="scikit-learn", what=path.name) from error
    try:
        with warnings.catch_warnings():
            # Of another version of scikit-learn: whether it matters, the comparison shows.
            warnings.simplefilter("ignore")
            return joblib.load(path)
    except Exception as error:  # anything may happen
        raise ExportError(f"{path}: it cannot be unpickled: {_reason(error)}") from error


def _check_fitted(estimator: Any, attribute: str) -> None:
    if not hasattr(estimator, attribute):
        raise ExportError(f"{_name(estimator)}: expected a fitted estimator, got one without {attribute}")


def _described(estimator: Any) -> str:
    if hasattr(estimator, "steps"):
        return " + ".join(_described(step) for _, step in estimator.steps)
    return _name(estimator)


def _name(estimator: Any) -> str:
    return estimator if isinstance(estimator, str) else type(estimator).__name__


def _floats(values: Any) -> Float64Array:
    return cast("Float64Array", np.asarray(values, np.float64))


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
