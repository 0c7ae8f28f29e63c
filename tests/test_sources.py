"""Where settings come from, which source wins, and what is refused with what words."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import sources
from service.errors import StartError
from service.settings import Settings, variable_of
from service.sources import read

NAMES = list(Settings.model_fields)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "logitserve.toml"


def test_defaults_come_from_no_source(tmp_path: Path) -> None:
    sourced = read({}, environ={}, root=tmp_path)
    assert sourced.settings == Settings()
    assert sourced.sources == dict.fromkeys(NAMES, "default")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(config: Path, tmp_path: Path) -> None:
    config.write_text('port = 1\nhost = "file"\nrows_limit = 3\n', encoding="utf-8")
    environ = {"LOGITSERVE_PORT": "4", "LOGITSERVE_HOST": "environment", "LOGITSERVE_CONFIG": str(config)}
    sourced = read({"port": "6", "host": None}, environ=environ, root=tmp_path)
    assert (sourced.settings.port, sourced.settings.host, sourced.settings.rows_limit) == (
        6,
        "environment",
        3,
    )
    assert sourced.sources["port"] == "--port"
    assert sourced.sources["host"] == "LOGITSERVE_HOST"
    assert sourced.sources["rows_limit"] == f"{config}: rows_limit"


def test_the_config_flag_wins_over_the_variable(config: Path, tmp_path: Path) -> None:
    config.write_text("port = 1\n", encoding="utf-8")
    sourced = read({}, config=str(config), environ={"LOGITSERVE_CONFIG": str(tmp_path / "absent.toml")})
    assert sourced.settings.port == 1


def test_the_processs_own_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITSERVE_KEEP_ALIVE_S", "7")
    assert read({}).settings.keep_alive_s == 7


ENDPOINT = {"AIP_ENDPOINT_ID": "7", "AIP_DEPLOYED_MODEL_ID": "8"}


@pytest.mark.parametrize(
    ("environ", "health", "predict", "source"),
    [
        ({}, "", "", "default"),
        (
            {"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict"},
            "/health",
            "/predict",
            "AIP_PREDICT_ROUTE",
        ),
        ({"AIP_ENDPOINT_ID": "7"}, "", "", "default"),
        (
            ENDPOINT,
            "",
            "/v1/endpoints/7/deployedModels/8:predict",
            "AIP_ENDPOINT_ID and AIP_DEPLOYED_MODEL_ID",
        ),
        ({**ENDPOINT, "AIP_PREDICT_ROUTE": "/p"}, "", "/p", "AIP_PREDICT_ROUTE"),
        (
            {"AIP_PREDICT_ROUTE": "/p", "LOGITSERVE_VERTEX_PREDICT_ROUTE": "/q"},
            "",
            "/q",
            "LOGITSERVE_VERTEX_PREDICT_ROUTE",
        ),
        ({"AIP_MODE": "PREDICTION", "AIP_STORAGE_URI": "gs://x", "AIP_FRAMEWORK": ""}, "", "", "default"),
    ],
)
def test_the_routes_of_vertex_ai_follow_its_variables(
    tmp_path: Path, environ: dict[str, str], health: str, predict: str, source: str
) -> None:
    sourced = read({}, environ=environ, root=tmp_path)
    chosen = sourced.settings
    assert (chosen.vertex_health_route, chosen.vertex_predict_route) == (health, predict)
    assert sourced.sources["vertex_predict_route"] == source


@pytest.mark.parametrize("path", ["predict", "/{model}", "/a?b", "/a b", "/a#b"])
def test_a_route_of_vertex_ai_is_a_plain_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(StartError, match="AIP_PREDICT_ROUTE: expected a path that begins with /, got"):
        read({}, environ={"AIP_PREDICT_ROUTE": path}, root=tmp_path)


@pytest.mark.parametrize(
    ("environ", "mounted", "port", "source"),
    [
        (
            {"LOGITSERVE_PORT": "1", "AIP_HTTP_PORT": "2", "SAGEMAKER_BIND_TO_PORT": "3"},
            "opt/ml/model",
            1,
            "LOGITSERVE_PORT",
        ),
        ({"SAGEMAKER_BIND_TO_PORT": "3", "AIP_HTTP_PORT": "2"}, "opt/ml/model", 2, "AIP_HTTP_PORT"),
        ({"AIP_HTTP_PORT": "", "SAGEMAKER_BIND_TO_PORT": "3"}, "opt/ml/model", 3, "SAGEMAKER_BIND_TO_PORT"),
        ({}, "opt/ml/model", 8080, "{root}/opt/ml/model is there"),
        ({}, "opt/ml", 8000, "default"),
    ],
)
def test_the_port_follows_the_platform(
    tmp_path: Path, environ: dict[str, str], mounted: str, port: int, source: str
) -> None:
    (tmp_path / mounted).mkdir(parents=True)
    sourced = read({}, environ=environ, root=tmp_path)
    assert (sourced.settings.port, sourced.sources["port"]) == (port, source.format(root=tmp_path))


def test_what_sagemaker_says_is_followed(tmp_path: Path) -> None:
    environ = {
        "SAGEMAKER_BIND_TO_PORT": "8081",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "3",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv",
    }
    sourced = read({}, environ=environ, root=tmp_path)
    chosen = sourced.settings
    assert (chosen.port, chosen.workers, chosen.request_timeout_s) == (8081, 3, 20)
    assert (chosen.body_limit_bytes, chosen.invocations_accept) == (6 * 1024**2, "text/csv")
    assert sourced.sources["body_limit_bytes"] == "SAGEMAKER_MAX_PAYLOAD_IN_MB"
    ours = {
        "LOGITSERVE_WORKERS": "2",
        "LOGITSERVE_REQUEST_TIMEOUT_S": "5",
        "LOGITSERVE_BODY_LIMIT_BYTES": "1000",
        "LOGITSERVE_INVOCATIONS_ACCEPT": "application/x-npz",
    }
    chosen = read({"port": "9"}, environ={**environ, **ours}, root=tmp_path).settings
    assert (chosen.port, chosen.workers, chosen.request_timeout_s) == (9, 2, 5)
    assert (chosen.body_limit_bytes, chosen.invocations_accept) == (1000, "application/x-npz")


def test_what_sagemaker_has_unpacked_is_served_unless_told_otherwise(config: Path, tmp_path: Path) -> None:
    assert read({}, environ={}, root=tmp_path).settings.models == Path("models")
    unpacked = tmp_path / "opt/ml/model"
    unpacked.mkdir(parents=True)
    sourced = read({}, environ={}, root=tmp_path)
    assert (sourced.settings.models, sourced.settings.port) == (unpacked, 8080)
    assert sourced.sources["models"] == f"{unpacked} is there"
    assert read({"models": "m"}, environ={}, root=tmp_path).settings.models == Path("m")
    environ = {"LOGITSERVE_MODELS": "n"}
    assert read({}, environ=environ, root=tmp_path).settings.models == Path("n")
    config.write_text('models = "o"\n', encoding="utf-8")
    assert read({}, config=str(config), environ={}, root=tmp_path).settings.models == Path("o")


def test_the_file_says_more_than_the_mounted_folder(config: Path, tmp_path: Path) -> None:
    (tmp_path / "opt/ml/model").mkdir(parents=True)
    config.write_text("port = 9\n", encoding="utf-8")
    assert read({}, config=str(config), environ={}, root=tmp_path).settings.port == 9


def test_an_empty_variable_counts_as_absent() -> None:
    assert read({}, environ={"LOGITSERVE_WORKERS": ""}).sources["workers"] == "default"


def test_what_kubernetes_puts_beside_a_service_of_our_name_is_left_alone(tmp_path: Path) -> None:
    environ = {
        "LOGITSERVE_SERVICE_HOST": "10.0.0.7",
        "LOGITSERVE_SERVICE_PORT": "8000",
        "LOGITSERVE_SERVICE_PORT_HTTP": "8000",
        "LOGITSERVE_PORT": "tcp://10.0.0.7:8000",
        "LOGITSERVE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "LOGITSERVE_PORT_8000_TCP_PROTO": "tcp",
        "LOGITSERVE_PORT_8000_TCP_ADDR": "10.0.0.7",
    }
    assert read({}, environ=environ, root=tmp_path).sources["port"] == "default"


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"LOGITSERVE_PORT": "x"}, "LOGITSERVE_PORT: expected a whole number from 0 to 65535, got 'x'"),
        (
            {"LOGITSERVE_PORT": "65536"},
            "LOGITSERVE_PORT: expected a whole number from 0 to 65535, got '65536'",
        ),
        ({"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT: expected a whole number from 0 to 65535, got 'http'"),
        (
            {"LOGITSERVE_WORKERS": "0"},
            "LOGITSERVE_WORKERS: expected a whole number from 1 to 512, or auto, got '0'",
        ),
        ({"LOGITSERVE_V1": "KServe"}, "LOGITSERVE_V1: expected tensorflow or kserve, got 'KServe'"),
        (
            {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "-6"},
            "SAGEMAKER_MAX_PAYLOAD_IN_MB: expected a whole number above 0, got '-6'",
        ),
        (
            {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"},
            "SAGEMAKER_MAX_PAYLOAD_IN_MB: expected a whole number above 0, got 0",
        ),
        (
            {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/html"},
            (
                "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT: expected application/json, text/csv, application/jsonlines, "
                "application/x-npy or application/x-npz, got 'text/html'"
            ),
        ),
        ({"LOGITSERVE_PROVIDER": "gpu"}, "LOGITSERVE_PROVIDER: expected auto, cpu or cuda, got 'gpu'"),
        (
            {"LOGITSERVE_DRAIN_DELAY_S": "nan"},
            "LOGITSERVE_DRAIN_DELAY_S: expected a number of seconds, 0 or more, got 'nan'",
        ),
        ({"LOGITSERVE_PROT": "1"}, "unknown variable LOGITSERVE_PROT; did you mean LOGITSERVE_PORT?"),
        ({"LOGITSERVE_port": "1"}, "unknown variable LOGITSERVE_port; did you mean LOGITSERVE_PORT?"),
        (
            {"LOGITSERVE_QQQQ": "1"},
            "unknown variable LOGITSERVE_QQQQ; `logitserve serve --help` lists those that there are",
        ),
    ],
)
def test_a_bad_variable_is_named_with_what_was_expected(environ: dict[str, str], line: str) -> None:
    with pytest.raises(StartError) as caught:
        read({}, environ=environ)
    assert str(caught.value) == line


def test_a_bad_flag_is_named_and_not_echoed_at_length() -> None:
    with pytest.raises(StartError) as caught:
        read({"workers": "9" * 1000}, environ={})
    assert str(caught.value).startswith("--workers: expected a whole number from 1 to 512, or auto, got '999")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting prot; did you mean port?"),
        ("port = true", "port: expected a whole number from 0 to 65535, got True"),
        ("port = 1.5", "port: expected a whole number from 0 to 65535, got 1.5"),
        ("models = 3", "models: expected a folder, or a URL without credentials, got 3"),
        ("port =", "not valid TOML: "),
        ("[port]\nnumber = 1", "port: expected a whole number from 0 to 65535, got {'number': 1}"),
    ],
)
def test_a_bad_file_is_named_with_what_was_expected(config: Path, text: str, said: str) -> None:
    config.write_text(text, encoding="utf-8")
    with pytest.raises(StartError) as caught:
        read({}, config=str(config), environ={})
    assert str(caught.value).startswith(f"{config}: {said}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"absent\.toml: cannot be read: No such file"):
        read({}, config=str(tmp_path / "absent.toml"), environ={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=r"binary\.toml: not valid TOML"):
        read({}, config=str(tmp_path / "binary.toml"), environ={})


@given(port=st.integers(0, 65535), rows=st.integers(1, 2**40), delay_s=st.floats(0, 1e6))
def test_each_source_gives_the_same_value(port: int, rows: int, delay_s: float) -> None:
    written = {"port": repr(port), "rows_limit": repr(rows), "drain_delay_s": repr(delay_s)}
    by_flag = read(written, environ={}).settings
    by_variable = read({}, environ={variable_of(name): text for name, text in written.items()}).settings
    assert by_flag == by_variable == Settings(port=port, rows_limit=rows, drain_delay_s=delay_s)


def test_defaults_can_be_written_as_toml() -> None:
    """What --print-config writes needs no more than TOML's numbers and strings."""
    kinds = {
        type(tomllib.loads(f"x = {value!r}")["x"]) for value in Settings().model_dump(mode="json").values()
    }
    assert kinds <= {int, float, str}


def test_the_admin_key_comes_from_a_file_as_well(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("correct-horse\n", encoding="utf-8")
    sourced = read({}, environ={"LOGITSERVE_ADMIN_KEY_FILE": str(file)})
    assert sourced.settings.admin_key.get_secret_value() == "correct-horse"
    assert sourced.sources["admin_key"] == "the file of LOGITSERVE_ADMIN_KEY_FILE"
    plain = read({"admin_key": "correct-horse"}, environ={})
    assert plain.settings.admin_key == sourced.settings.admin_key
    assert not read({}, environ={}).settings.admin_key


@pytest.mark.parametrize("key", ["two words", "tab\t", "über", "x\n"])
def test_an_admin_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(StartError) as caught:
        read({}, environ={"LOGITSERVE_ADMIN_KEY": key})
    assert str(caught.value) == (
        "LOGITSERVE_ADMIN_KEY: expected printable ASCII without spaces, as a header can carry it"
    )


def test_an_admin_key_of_another_type_is_refused_without_showing_it(config: Path) -> None:
    config.write_text("admin_key = 123456\n", encoding="utf-8")
    with pytest.raises(StartError) as caught:
        read({}, config=str(config), environ={})
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the admin key cannot be read: No such file or directory"),
        (b" \n", "the file of the admin key is empty"),
        (b"\xff\xfe", "the admin key cannot be read: it is no text"),
    ],
)
def test_a_file_without_a_key_ends_the_start(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError) as caught:
        read({"admin_key_file": str(file)}, environ={})
    assert str(caught.value) == f"--admin-key-file: {said}"


def test_a_file_with_a_bad_key_is_named_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two words", encoding="utf-8")
    with pytest.raises(
        StartError, match=r"^the file of --admin-key-file: expected printable ASCII"
    ) as caught:
        read({"admin_key_file": str(tmp_path / "key")}, environ={})
    assert "two" not in str(caught.value)


def test_two_admin_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        read({"admin_key": "a"}, environ={"LOGITSERVE_ADMIN_KEY_FILE": str(tmp_path)})
    assert (
        str(caught.value) == "--admin-key and LOGITSERVE_ADMIN_KEY_FILE both give an admin key; leave one out"
    )


def test_the_cache_of_models_lies_where_the_user_keeps_caches(tmp_path: Path) -> None:
    assert read({}, environ={}, root=tmp_path).settings.cache_dir == Path("~/.cache/logitserve")
    sourced = read({}, environ={"XDG_CACHE_HOME": "/var/cache"}, root=tmp_path)
    assert sourced.settings.cache_dir == Path("/var/cache/logitserve")
    assert sourced.sources["cache_dir"] == "XDG_CACHE_HOME"
    environ = {"XDG_CACHE_HOME": "/var/cache", "LOGITSERVE_CACHE_DIR": "/heads"}
    assert read({}, environ=environ, root=tmp_path).settings.cache_dir == Path("/heads")


# OpenTelemetry's own variables

OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTLP_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "endpoint", "source"),
    [
        ({OTLP: "http://c:4318"}, "http://c:4318/v1/traces", OTLP),
        ({OTLP: "http://c:4318/otlp/"}, "http://c:4318/otlp/v1/traces", OTLP),
        ({OTLP: "http://c:4318", OTLP_TRACES: "http://t/here"}, "http://t/here", OTLP_TRACES),
        (
            {OTLP: "http://c:4318", "LOGITSERVE_TRACE_ENDPOINT": "http://o"},
            "http://o",
            "LOGITSERVE_TRACE_ENDPOINT",
        ),
        (
            {OTLP: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://c:4318/v1/traces",
            OTLP,
        ),
        # What is spoken there is not what we speak, or nobody wants to hear it.
        ({OTLP: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "default"),
        ({OTLP: "http://c:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "", "default"),
        ({OTLP: "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, "", "default"),
        ({OTLP: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, "", "default"),
        ({OTLP: ""}, "", "default"),
    ],
)
def test_the_collector_that_a_platform_names_is_followed(
    environ: dict[str, str], endpoint: str, source: str, tmp_path: Path
) -> None:
    sourced = read({}, environ=environ, root=tmp_path)
    assert sourced.settings.trace_endpoint == endpoint
    assert sourced.sources["trace_endpoint"] == source


def test_a_flag_without_a_value_turns_off_what_a_platform_names(tmp_path: Path) -> None:
    sourced = read({"trace_endpoint": ""}, environ={OTLP: "http://c:4318"}, root=tmp_path)
    assert sourced.settings.trace_endpoint == ""


@pytest.mark.parametrize(
    ("environ", "ratio"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_on"}, 1),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 1),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 1),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "endpoint=x"}, 0.01),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.01),
        ({"OTEL_TRACES_SAMPLER": "always_on", "LOGITSERVE_TRACE_RATIO": "0.5"}, 0.5),
    ],
)
def test_the_sampler_that_a_platform_names_is_followed(
    environ: dict[str, str], ratio: float, tmp_path: Path
) -> None:
    assert read({}, environ=environ, root=tmp_path).settings.trace_ratio == ratio


def test_a_bad_value_of_a_platform_is_told_with_its_variable(tmp_path: Path) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"}
    with pytest.raises(
        StartError, match="OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got 'much'"
    ):
        read({}, environ=environ, root=tmp_path)
    with pytest.raises(StartError, match="OTEL_EXPORTER_OTLP_ENDPOINT: expected an http:// or https:// URL"):
        read({}, environ={OTLP: "collector:4317"}, root=tmp_path)


# Keys


@pytest.mark.parametrize("keys", ["a = {}", 'a = { sha256 = "hidden" }'])
def test_keys_are_shown_nowhere(keys: str) -> None:
    chosen = read({}, environ={"LOGITSERVE_KEYS": keys}).settings
    assert chosen.keys.get_secret_value() == keys
    assert "a =" not in f"{chosen!r} {chosen} {chosen.model_dump(mode='json')}"


def test_keys_of_another_type_are_refused_without_showing_them(config: Path) -> None:
    config.write_text("keys = 123456\n", encoding="utf-8")
    with pytest.raises(StartError) as caught:
        read({}, config=str(config), environ={})
    assert str(caught.value) == f"{config}: keys: expected lines as `logitserve key` prints them"


def test_the_key_that_commands_send_is_no_setting() -> None:
    environ = {"LOGITSERVE_CLIENT_KEY": "k-1", "LOGITSERVE_PORT": "1"}
    assert read({}, environ=environ).settings.port == 1
    assert sources.client_key(environ) == "k-1"
    assert sources.client_key({}) is sources.client_key({"LOGITSERVE_CLIENT_KEY": ""}) is None


def test_a_near_miss_of_the_keys_ends_the_start() -> None:
    with pytest.raises(StartError, match="unknown variable LOGITSERVE_KEY; did you mean LOGITSERVE_KEYS"):
        read({}, environ={"LOGITSERVE_KEY": "a = {}"})
