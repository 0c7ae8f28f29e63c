"""The Python client: the same wire from the other side, synchronous and asynchronous.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.loss([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], [1, 2])
        answer.losses, answer.loss

In reading order: `answers` is what calls return and raise, `attempts` what is tried again and when, `calls`
how a call becomes a request, `endpoints` the two clients.
"""

from service.client.answers import (
    Answer,
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    Joined,
    ServiceError,
    Unavailable,
)
from service.client.calls import LossOptions, PredictOptions, SoftmaxOptions
from service.client.endpoints import AsyncClient, Client

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "InvalidRequest",
    "Joined",
    "LossOptions",
    "PredictOptions",
    "ServiceError",
    "SoftmaxOptions",
    "Unavailable",
]
