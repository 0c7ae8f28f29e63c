"""The two clients: the calls of `calls`, driven by one loop that sleeps and one that awaits."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from numpy.typing import ArrayLike

from service.client.answers import Answer, Joined
from service.client.attempts import Outcome, Steps, connection_failed
from service.client.calls import (
    Calls,
    DelayedLabels,
    LossOptions,
    PredictOptions,
    SoftmaxOptions,
    Sparse,
    features_fields,
    logits_fields,
)

T = TypeVar("T")


class Client(Calls[httpx.Client, httpx.BaseTransport]):
    """The synchronous client; use it as a context manager, or `close` it.

    One client may be shared by threads.

    Examples
    --------
    With the service's address as `url`, such as ``http://127.0.0.1:8000``:

    >>> from service.client import Client
    >>> with Client(url) as client:
    ...     client.softmax([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]).classes
    array([1, 0])
    """

    def _open(self, transport: httpx.BaseTransport | None, **settings: Any) -> httpx.Client:
        return httpx.Client(transport=transport, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def softmax(
        self, logits: ArrayLike, *, timeout_s: float | None = None, **options: Unpack[SoftmaxOptions]
    ) -> Answer:
        """Turn logits into probabilities and classes.

        Parameters
        ----------
        logits : array [..., num_classes]
            Unnormalised log probabilities; -infinity masks a class. float16 and float32 are computed in
            float32, all else in float64, unless `dtype` says otherwise.
        timeout_s : float, optional
            In place of the client's.
        **options
            `axis`, `dtype`, `temperature`, `top_k`, `class_names`, `outputs`: see `SoftmaxOptions`.

        Returns
        -------
        Answer
            `probabilities` and `classes`, or what `outputs` names.

        Raises
        ------
        InvalidRequest, Unavailable, ServiceError, ConnectionFailed

        Examples
        --------
        >>> answer = client.softmax([0.5, 1.5, 0.1], top_k=2)
        >>> answer.classes, answer.top_classes
        (array(1), array([1, 0]))
        """
        return self._drive(self.score_steps("softmax", logits_fields(logits, options), timeout_s))

    def loss(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        *,
        timeout_s: float | None = None,
        **options: Unpack[LossOptions],
    ) -> Answer:
        """Take the cross-entropy of logits against labels.

        Parameters
        ----------
        logits : array [..., num_classes]
            As for `softmax`.
        labels : array
            Class indices `[...]`, rows of target probabilities `[..., num_classes]`, or with `class_names`
            the names of classes `[...]`.
        timeout_s : float, optional
            In place of the client's.
        **options
            Those of `softmax` and `reduction`, `class_weight`, `sample_weight`, `ignore_index`,
            `label_smoothing` and others: see `LossOptions`.

        Returns
        -------
        Answer
            `loss` (None for the mean of nothing), `losses` and `count`, or what `outputs` names.

        Raises
        ------
        InvalidRequest, Unavailable, ServiceError, ConnectionFailed

        Examples
        --------
        >>> client.loss([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], [1, 2]).loss
        0.8393433389787792
        """
        fields = {**logits_fields(logits, options), "labels": labels}
        return self._drive(self.score_steps("loss", fields, timeout_s))

    def predict(
        self,
        features: ArrayLike | Sparse,
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> Answer:
        """Run a head on features, and take the loss where labels are given.

        Parameters
        ----------
        features : array [..., num_features], or scipy's sparse array or matrix [rows, num_features]
            Raw features; the head's own type is computed in. Sparse ones travel without their zeros.
        timeout_s : float, optional
            In place of the client's.
        **options
            Those of `loss` and `labels`, `model`, `version`, `calibration`, `top_contributions`, `row_ids`: see
            `PredictOptions`.

        Returns
        -------
        Answer
            `probabilities` and `classes`, with labels `loss`, `losses` and `count`, or what `outputs` names;
            `model`, `version` and `digest` say which head it was. Floats of a float32 head are float32
            from npz; JSON does not name the type, so from it they are float64 with the same digits.

        Raises
        ------
        InvalidRequest, Unavailable, ServiceError, ConnectionFailed

        Examples
        --------
        With scikit-learn's handwritten digits as `images` and their classes as `targets`:

        >>> answer = client.predict(images, labels=targets, outputs=["accuracy", "predicted_names"])
        >>> answer.accuracy > 0.95
        True
        >>> answer.predicted_names[:3].tolist()
        ['zero', 'one', 'two']
        """
        return self._drive(self.score_steps("predict", features_fields(features, options), timeout_s))

    def predict_each(
        self,
        features: ArrayLike | Sparse,
        models: Sequence[str],
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> dict[str, Answer]:
        """Ask several heads about the same features, which travel once and are scored together.

        Parameters
        ----------
        features : array [..., num_features], or scipy's sparse array or matrix [rows, num_features]
        models : sequence of str
            Heads that all take so many features.
        timeout_s : float, optional
            In place of the client's.
        **options
            As for `predict`, for each of them; `model` and `models` are the same thing said twice.

        Returns
        -------
        dict of str to Answer
            By model, in the order of `models`.

        Raises
        ------
        InvalidRequest, Unavailable, ServiceError, ConnectionFailed

        Examples
        --------
        >>> answers = client.predict_each(images[:2], ["digits"])
        >>> answers["digits"].predicted_names.tolist(), answers["digits"].version
        (['zero', 'one'], '1')
        """
        fields = features_fields(features, options)
        return self._drive(self.predict_each_steps(fields, models, timeout_s))

    def feedback(self, ids: ArrayLike, labels: DelayedLabels, *, timeout_s: float | None = None) -> Joined:
        """Send the labels of rows that were predicted with `row_ids`.

        Parameters
        ----------
        ids : array of str
            The `row_ids` of answers.
        labels : array
            The true class of each, as an index or a name of the head that scored it.
        timeout_s : float, optional
            In place of the client's.

        Returns
        -------
        Joined
            How many rows were joined, and the ids of the others. One that was sent twice, because the connection
            broke before the first answer came, is among the repeated.

        Raises
        ------
        InvalidRequest, Unavailable, ServiceError, ConnectionFailed

        Examples
        --------
        >>> answer = client.predict(images[:2], row_ids=True)
        >>> client.feedback(answer.row_ids, ["zero", "one"]).joined
        2
        """
        return self._drive(self.feedback_steps(ids, labels, timeout_s))

    def models(self) -> list[dict[str, Any]]:
        """List the models with their versions, inputs, class names and digests."""
        return self._drive(self.models_steps())

    def ready(self) -> bool:
        """Say whether the service can score now."""
        return self._drive(self.healthy_steps("/health/ready"))

    def live(self) -> bool:
        """Say whether the service runs."""
        return self._drive(self.healthy_steps("/health/live"))

    def metrics_text(self) -> str:
        """Fetch the metrics in Prometheus' text format."""
        return self._drive(self.metrics_text_steps())

    def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, httpx.Request):
                    step = steps.send(self._send(step))
                else:
                    time.sleep(step)
                    step = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value

    def _send(self, request: httpx.Request) -> Outcome:
        try:
            response = self._http.send(request, stream=True)
        except httpx.TransportError as error:
            return error
        try:
            response.read()
        except httpx.TransportError as error:
            raise connection_failed(error) from error
        return response


class AsyncClient(Calls[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """The asynchronous client: the methods of `Client`, to be awaited.

    Examples
    --------
    >>> from service.client import AsyncClient
    >>> async def classes_of(images):
    ...     async with AsyncClient(url) as client:
    ...         answers = await asyncio.gather(*(client.predict(image) for image in images))
    ...     return [int(answer.classes) for answer in answers]
    >>> asyncio.run(classes_of(images[:3]))
    [0, 1, 2]
    """

    def _open(self, transport: httpx.AsyncBaseTransport | None, **settings: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=transport, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def softmax(
        self, logits: ArrayLike, *, timeout_s: float | None = None, **options: Unpack[SoftmaxOptions]
    ) -> Answer:
        """See `Client.softmax`."""
        return await self._drive(self.score_steps("softmax", logits_fields(logits, options), timeout_s))

    async def loss(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        *,
        timeout_s: float | None = None,
        **options: Unpack[LossOptions],
    ) -> Answer:
        """See `Client.loss`."""
        fields = {**logits_fields(logits, options), "labels": labels}
        return await self._drive(self.score_steps("loss", fields, timeout_s))

    async def predict(
        self,
        features: ArrayLike | Sparse,
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> Answer:
        """See `Client.predict`."""
        return await self._drive(self.score_steps("predict", features_fields(features, options), timeout_s))

    async def predict_each(
        self,
        features: ArrayLike | Sparse,
        models: Sequence[str],
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> dict[str, Answer]:
        """See `Client.predict_each`."""
        fields = features_fields(features, options)
        return await self._drive(self.predict_each_steps(fields, models, timeout_s))

    async def feedback(
        self, ids: ArrayLike, labels: DelayedLabels, *, timeout_s: float | None = None
    ) -> Joined:
        """See `Client.feedback`."""
        return await self._drive(self.feedback_steps(ids, labels, timeout_s))

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        return await self._drive(self.models_steps())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        return await self._drive(self.healthy_steps("/health/ready"))

    async def live(self) -> bool:
        """See `Client.live`."""
        return await self._drive(self.healthy_steps("/health/live"))

    async def metrics_text(self) -> str:
        """See `Client.metrics_text`."""
        return await self._drive(self.metrics_text_steps())

    async def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, httpx.Request):
                    step = steps.send(await self._send(step))
                else:
                    await asyncio.sleep(step)
                    step = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _send(self, request: httpx.Request) -> Outcome:
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            return error
        try:
            await response.aread()
        except httpx.TransportError as error:
            raise connection_failed(error) from error
        return response
