"""Scopes and keys: who may use what, and what anybody else is told."""

import hmac
import time
from typing import Any, get_args

import pytest
from conftest import MODELS, connected

from service.api import security
from service.api.exchange import Exchange
from service.api.security import NO_KEYS, Keys, Scope
from service.api.transport import Route
from service.app import create_app
from service.application import Application
from service.errors import Forbidden, Unauthenticated
from service.keys import GRANTS, Key, digest_of, line_of
from service.settings import Settings


def key(name: str, *scopes: Any, **fields: Any) -> Key:
    return Key(name, digest_of(f"{name}-key".encode()), frozenset(scopes), **fields)


ADMIN = Key("boss", digest_of(b"correct-horse"), frozenset({"admin"}))
KEYS = Keys([ADMIN])
EVERY = [key("app", "infer"), key("scraper", "metrics"), key("boss", "admin")]


def exchange(authorization: str | None = None) -> Exchange:
    headers = {} if authorization is None else {b"authorization": authorization.encode("latin-1")}
    return Exchange(headers, "POST", "id", 60.0, 1000)


def passes(keys: Keys, bearer: str | None, scope: Scope) -> int:
    try:
        keys.check(exchange(bearer and f"Bearer {bearer}"), scope)
    except (Unauthenticated, Forbidden) as error:
        return error.status
    return 200


@pytest.mark.parametrize("keys", [KEYS, NO_KEYS, Keys(EVERY)])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic Og=="])
def test_what_is_open_asks_for_no_key(keys: Keys, authorization: str | None) -> None:
    keys.check(exchange(authorization), "open")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_key_passes(scheme: str) -> None:
    for sent in (f"{scheme} correct-horse", f"{scheme}  correct-horse "):
        asked = exchange(sent)
        KEYS.check(asked, "admin")
        assert asked.key_name == "boss"


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "correct-horse", "Basic correct-horse", "Bearercorrect-horse"],
)
def test_without_a_key_one_is_told_how_to_bring_it(authorization: str | None) -> None:
    with pytest.raises(Unauthenticated, match=r"Authorization: Bearer .* scope admin") as raised:
        KEYS.check(exchange(authorization), "admin")
    assert (raised.value.status, raised.value.code) == (401, "unauthenticated")
    assert raised.value.headers == {"WWW-Authenticate": 'Bearer realm="logitserve"'}


@pytest.mark.parametrize(
    "sent", ["correct-hors", "correct-horse2", "Correct-horse", "x" * 10_000, "\xff\xfe"]
)
def test_a_wrong_key_is_not_known_and_never_repeated(sent: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        KEYS.check(exchange(f"Bearer {sent}"), "admin")
    assert raised.value.headers == {"WWW-Authenticate": 'Bearer realm="logitserve", error="invalid_token"'}
    assert raised.value.detail == "the key is not known"


def test_the_hash_of_a_key_is_no_key() -> None:
    assert passes(KEYS, ADMIN.digest.hex(), "admin") == 401
    assert passes(KEYS, "correct-horse", "admin") == 200


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer anything", "Bearer app-key"])
def test_where_no_admin_key_is_set_nobody_passes_and_is_told_what_to_set(authorization: str | None) -> None:
    for keys in (NO_KEYS, Keys(), Keys([key("app", "infer")])):
        with pytest.raises(Forbidden, match="LOGITSERVE_ADMIN_KEY_FILE") as raised:
            keys.check(exchange(authorization), "admin")
        assert (raised.value.status, raised.value.code) == (403, "forbidden")


def test_each_scope_lets_in_whom_it_names_and_admin_everywhere() -> None:
    keys = Keys(EVERY)
    statuses = {
        (name, scope): passes(keys, f"{name}-key", scope)
        for name in ("app", "scraper", "boss", "nobody")
        for scope in GRANTS
    }
    allowed = {("app", "infer"), ("scraper", "metrics"), *(("boss", scope) for scope in GRANTS)}
    assert {pair for pair, status in statuses.items() if status == 200} == allowed
    assert {status for pair, status in statuses.items() if pair[0] == "nobody"} == {401}
    assert sorted(statuses.values()) == [200] * 5 + [401] * 3 + [403] * 4


def test_a_key_that_reaches_not_so_far_is_told_what_it_lacks() -> None:
    with pytest.raises(Forbidden, match=r"^the key app lacks the scope metrics$") as raised:
        Keys(EVERY).check(exchange("Bearer app-key"), "metrics")
    challenge = 'Bearer realm="logitserve", error="insufficient_scope", scope="metrics"'
    assert raised.value.headers == {"WWW-Authenticate": challenge}


def test_a_scope_that_no_key_names_is_open_but_for_admin() -> None:
    assert passes(NO_KEYS, None, "infer") == passes(NO_KEYS, None, "metrics") == 200
    assert passes(KEYS, None, "infer") == 200, "an admin key alone closes nothing else"
    only = Keys([key("app", "infer")])
    assert (passes(only, None, "infer"), passes(only, None, "metrics")) == (401, 200)


def test_a_scope_that_was_closed_stays_so_without_keys() -> None:
    keys = Keys([ADMIN], closed={"infer"})
    assert (passes(keys, None, "infer"), passes(keys, "correct-horse", "infer")) == (401, 200)


def test_an_expired_key_is_refused_and_opens_nothing() -> None:
    now_s = time.time()
    keys = Keys([key("old", "infer", expires_s=now_s - 1), key("new", "infer", expires_s=now_s + 60)])
    assert (passes(keys, "new-key", "infer"), passes(keys, "old-key", "infer")) == (200, 401)
    with pytest.raises(Unauthenticated, match=r"^the key old has expired$"):
        keys.check(exchange("Bearer old-key"), "infer")
    assert passes(Keys([key("old", "infer", expires_s=now_s - 1)]), None, "infer") == 401


def test_a_key_ends_at_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys([key("app", "infer", expires_s=1000.0)])
    for now_s, status in ((999.9, 200), (1000.0, 401)):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
        assert passes(keys, "app-key", "infer") == status


def test_keys_are_compared_as_hashes_in_constant_time_known_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    class Spied:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return hmac.compare_digest(one, other)

    monkeypatch.setattr(security, "hmac", Spied)
    KEYS.check(exchange("Bearer correct-horse"), "admin")
    assert compared == [(ADMIN.digest, ADMIN.digest)]
    assert passes(KEYS, "wrong", "admin") == 401
    assert compared[1:] == [(digest_of(b"wrong"), bytes(32))]


def test_no_key_is_kept_as_it_came() -> None:
    assert "correct-horse" not in repr(vars(KEYS))
    assert ADMIN.digest in vars(KEYS)["_by_digest"]


# Every route of the real application, whichever way a request comes

# What anybody may use: it holds no data. All else is in the next table, or asks for infer or, below /admin, admin.
OPEN = {
    "/", "/page/{asset}", "/docs", "/docs/{asset}", "/openapi.json", "/health/live", "/health/ready", "/ping", "/health",
    "/version", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}/ready",
    "/v2/models/{model}/versions/{version}/ready", "/vertex/health",
}  # fmt: skip
METRICS = {
    "/metrics", "/activity", "/models/{model}/quality", "/models/{model}/shadow", "/v2/models/stats",
    "/v2/models/{model}/stats", "/v2/models/{model}/versions/{version}/stats",
}  # fmt: skip
NAMES: list[str | None] = [None, "app", "scraper", "boss", "nobody"]
SENT = {name: name and f"Bearer {name}-key" for name in NAMES}
MAY: dict[Scope, set[str | None]] = {
    "open": set(SENT),
    "infer": {"app", "boss"},
    "metrics": {"scraper", "boss"},
    "admin": {"boss"},
}


def expected_scope(path: str) -> Scope:
    if path in OPEN:
        return "open"
    if path in METRICS:
        return "metrics"
    return "admin" if path.startswith(("/admin/", "/v2/repository/")) else "infer"


def made(keys: str, **settings: Any) -> Application:
    given = {"models": MODELS, "keys": keys, "feedback": "off", "quality": "off"}
    routes = {"vertex_health_route": "/vertex/health", "vertex_predict_route": "/vertex/predict"}
    return create_app(Settings(**{**given, **routes, **settings}))


EVERY_LINE = "\n".join(map(line_of, EVERY))
ROUTES = list(made("").templates.values())


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_has_the_scope_that_was_decided(route: Route) -> None:
    assert route.scope == expected_scope(route.path)


@pytest.mark.anyio
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_conversation_on_any_route_passes_with_its_keys_only(
    route: Route, application: Application
) -> None:
    path = route.path.replace("{model}", "digits").replace("{version}", "1")
    async with connected(application) as client:
        for name, authorization in SENT.items():
            headers = {"authorization": authorization} if authorization else {}
            answer = await client.request(route.method, path, headers=headers, content=b"{")
            assert (answer.status_code not in {401, 403}) == (name in MAY[route.scope]), (name, answer.text)
            if answer.status_code in {401, 403}:
                assert answer.headers["www-authenticate"].startswith("Bearer realm="), name
                assert answer.status_code == (401 if name in {None, "nobody"} else 403)
                assert name is None or f"{name}-key" not in answer.text


class Sent:
    """Where the answer to a whole request goes."""

    disconnected = False

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def gone(self) -> bool:
        return False

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
        del close
        self.status, self.body = status, body
        self.headers = dict(line.split(": ", 1) for line in headers.split("\r\n")[:-1])


@pytest.mark.anyio
@pytest.mark.parametrize("bearer", ["", "Bearer nobody-key", "Bearer scraper-key", "Bearer app-key"])
async def test_a_hot_route_answers_the_same_as_a_conversation_and_as_a_whole_request(
    application: Application, bearer: str
) -> None:
    application.models_changed()
    assert {b"/predict", b"/softmax", b"/loss", b"/invocations", b"/vertex/predict"} < set(
        application.shortcuts
    )
    headers = {"x-request-id": "same", **({"authorization": bearer} if bearer else {})}
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    async with connected(application) as client:
        for path, shortcut in application.shortcuts.items():
            reply = Sent()
            shortcut(lines, b"{", reply)
            answer = await client.post(path.decode(), content=b"{", headers=headers)
            assert (reply.status, reply.body) == (answer.status_code, answer.content), path
            assert reply.headers == dict(answer.headers), path
            allowed = reply.status not in {401, 403}
            assert allowed == (bearer == "Bearer app-key"), path


@pytest.fixture(scope="module")
def application() -> Application:
    """Outside its lifespan: no model is loaded, and who is let in is told so."""
    return made(EVERY_LINE)


@pytest.mark.anyio
async def test_with_no_keys_all_but_admin_is_as_before_on_either_way() -> None:
    app = made("")
    async with connected(app) as client:
        answer = await client.post("/softmax", json={"logits": [1, 2]})
        assert answer.status_code == 200
        assert (await client.get("/metrics")).status_code == 200
    reply = Sent()
    app.shortcuts[b"/softmax"]([], b'{"logits":[1,2]}', reply)
    assert (reply.status, reply.body) == (200, answer.content)


@pytest.mark.anyio
async def test_dialects_refuse_in_their_own_form(application: Application) -> None:
    shapes = {
        "/softmax": {"type", "title", "status", "detail", "code", "request_id", "errors"},
        "/v2/models/softmax/infer": {"error"},
        "/v1/models/softmax:predict": {"error"},
        "/invocations": {"error_code", "message"},
        "/vertex/predict": {"error"},
    }
    async with connected(application) as client:
        for path, names in shapes.items():
            for bearer, status in (("nobody-key", 401), ("scraper-key", 403)):
                answer = await client.post(path, headers={"authorization": f"Bearer {bearer}"})
                assert (answer.status_code, set(answer.json())) == (status, names), path


@pytest.mark.anyio
async def test_the_document_says_which_key_a_route_asks_for(application: Application) -> None:
    async with connected(application) as client:
        document = (await client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {f"{scope} key" for scope in GRANTS}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            scope = expected_scope(path)
            asked: list[Any] = [] if scope == "open" else [{f"{scope} key": []}]
            asked += [{}] if scope in {"infer", "metrics"} else []
            assert operation["security"] == asked, path


def test_every_scope_can_be_granted_but_the_open_one() -> None:
    scopes = {word for part in get_args(Scope) for word in (get_args(part) or [part])}
    assert scopes == {"open", *GRANTS}


@pytest.mark.anyio
async def test_keys_of_the_settings_add_up() -> None:
    app = made(line_of(key("app", "infer")), admin_key="correct-horse")
    async with connected(app) as client:
        for sent in ("app-key", "correct-horse"):
            headers = {"authorization": f"Bearer {sent}"}
            answer = await client.post("/softmax", headers=headers, json={"logits": [1, 2]})
            assert answer.status_code == 200
        assert (
            await client.post("/admin/reload", headers={"authorization": "Bearer app-key"})
        ).status_code == 403
