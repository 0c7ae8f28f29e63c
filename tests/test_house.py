"""The plan of the house: floors, homes of libraries, sizes, and no import cycles.

What a newcomer may rely on: imports point down the list of floors, a library is met in its home only, and
no module or function is longer than one can read.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "service"

# Lowest first; rooms of one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "outcomes", "quota", "agreement", "instruments", "logs"),
    ("metrics", "types", "keys"),
    ("settings", "numeric", "exposition", "activity"),
    ("sources", "rules"),
    ("wire", "heads", "quality", "feedback"),
    ("finishing",),
    ("lanes",),
    ("scorer", "rollout", "shadow"),
    ("api", "client"),
    ("application",),
    ("app",),
    ("workers", "loadtest", "conformance", "export", "evaluation"),
    ("commands",),
    ("cli",),
)

# Inside a wing the same, lowest first.
WINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "numeric": (
        ("checks", "kernel", "decisions"),
        ("float32", "float64"),
        ("softmax",),
        ("losses",),
        ("calibration", "scores"),
        ("quality",),
    ),
    "wire": (
        ("limits", "media", "protobuf"),
        ("encodings", "arrays", "json_reader"),
        ("nested", "options"),
        ("json_writer",),
        ("tensors", "csv_rows"),
        ("contents",),
        ("outputs", "labels", "row_ids"),
        ("sparse",),
        ("fields",),
        ("inference", "instances"),  # what several dialects have in common
        (
            "schemas",
            "native",
            "v2",
            "v2_schemas",
            "v2_grpc",
            "v2_models",
            "v2_repository",
            "admin",
            "feedback",
            "v1",
            "v1_schemas",
            "invocations",
            "invocations_schemas",
        ),
        ("v2_grpc_models",),
    ),
    "heads": (
        ("graphs", "description", "storage", "policy", "batcher"),
        ("engine", "plan", "remote", "sparse", "writing"),
        ("handle",),
        ("repository",),
    ),
    "feedback": (("store",), ("sqlite", "redis", "joining"), ("keeping",)),
    "api": (
        ("course",),
        ("exchange",),
        ("security", "access", "decision_log", "tracing"),
        ("transport",),
        ("scoring",),
        ("raw", "observers", "rotation"),
        (
            "native",
            "v2",
            "v2_grpc",
            "v2_models",
            "v2_repository",
            "v1",
            "vertex",
            "invocations",
            "admin",
            "feedback",
            "ops",
            "page",
            "quality",
            "activity",
        ),
    ),
    "client": (("answers",), ("attempts",), ("calls",), ("endpoints",)),
    "workers": (("meeting", "protocol", "shares"), ("server",), ("supervisor",)),
    "conformance": (
        ("vectors",),
        ("judge",),
        ("dialect",),
        ("native", "v2", "v1"),
        ("discovery", "examination"),
        ("report",),
    ),
    "export": (
        ("source",),
        ("tensors", "affine", "parity"),
        ("npz", "safetensors", "sklearn", "torch", "keras", "flax", "onnx"),
        ("formats",),
        ("exporter",),
    ),
    "evaluation": (("labelled", "judging"), ("report",), ("plot",)),
    "quality": (("ledger",), ("online",), ("told",)),
    "loadtest": (("scenario", "tally"), ("generator",), ("fleet",), ("report",), ("plot",)),
}

# Where an outside library may be met; the standard library and numpy may be met anywhere.
HOMES: dict[str, set[str]] = {
    "onnxruntime": {"heads.engine"},
    "onnx": {"heads.graphs", "export.onnx"},
    "fsspec": {"heads.remote"},
    "prometheus_client": {"exposition"},
    "fastapi": {"application"},
    "fastapi_swagger": {"api.ops"},
    "starlette": {"application", "api.transport"},
    "uvicorn": {"workers.server", "workers.protocol"},
    "uvloop": {"workers.server"},
    "httptools": set(),  # uvicorn finds it
    "grpc": {"api.v2_grpc"},
    "redis": {"feedback.redis"},
    "opentelemetry": {"api.tracing"},
    "httpx": {"client", "loadtest.generator", "conformance"},
    "pydantic": {"settings", "sources", "heads.description"},
    "orjson": {"wire", "api", "metrics", "client", "conformance", "quality"},
    "simdjson": {"wire.json_reader"},
    "zstandard": {"wire.encodings"},
    "rich": {"commands", "loadtest.report", "conformance.report", "evaluation.report"},
    "matplotlib": {"loadtest.plot", "evaluation.plot"},
    "h5py": {"export.keras"},
    "joblib": {"export.sklearn"},
    "msgpack": {"export.flax"},
    "skops": {"export.sklearn"},
    "torch": {"export.torch"},
}

MODULE_LINES = 400
FUNCTION_LINES = 40
# A module or function over the limit, with the reason why it stays whole.
EXCEPTIONS: dict[str, str] = {}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in MODULES} - {""}


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that is imported, at the top or inside a function, with its full name."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def inside(path: Path) -> set[str]:
    """The modules of the package that a module imports, by their names in the package."""
    names = {name.removeprefix("service.") for name in imports_of(path) if name.startswith("service.")}
    return names & NAMES


def place(room: str, floors: tuple[tuple[str, ...], ...]) -> int:
    return next(number for number, rooms in enumerate(floors) if room in rooms)


def rooms() -> set[str]:
    return {name_of(path).split(".")[0] for path in MODULES} - {"", "__main__"}


def test_every_room_has_its_floor() -> None:
    assert rooms() <= {room for floor in FLOORS for room in floor}


# The map of the package and the way into it stand above all floors.
@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) not in {"", "__main__"}], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    name = name_of(path)
    room, *rest = name.split(".")
    for imported in inside(path):
        other, *other_rest = imported.split(".")
        if other != room:
            assert place(other, FLOORS) < place(room, FLOORS), f"{name} imports {imported}"
        elif room in WINGS and rest and other_rest:
            assert place(other_rest[0], WINGS[room]) < place(rest[0], WINGS[room]), (
                f"{name} imports {imported}"
            )


def test_there_is_no_import_cycle() -> None:
    graph = {name_of(path): inside(path) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_library_is_met_in_its_home_only(path: Path) -> None:
    name = name_of(path)
    for library in {imported.split(".")[0] for imported in imports_of(path)} & set(HOMES):
        at_home = any(name == home or name.startswith(f"{home}.") for home in HOMES[library])
        assert at_home, f"{name} imports {library}, whose home is {HOMES[library]}"


def test_every_dependency_has_a_home_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in [*project["dependencies"], *extras]:
        name = re.split(r"[><=;\[ ]", line)[0]
        module = name.replace("-", "_").removesuffix("_gpu").replace("pysimdjson", "simdjson")
        module = re.sub("^opentelemetry_.*", "opentelemetry", module.replace("grpcio", "grpc"))
        assert module in HOMES or module == "numpy", f"{name} has no home"
        written = next(row for row in text.splitlines() if f'"{line}"' in row)
        assert "#" in written, f"{name} has no reason on its line"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_sources_of_settings_read_the_environment(path: Path) -> None:
    reads = {
        node.attr
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}
    }
    assert not reads or name_of(path) in {"", "sources"}, "the package itself only turns telemetry off"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_settings_go_no_further_than_the_assembly(path: Path) -> None:
    if "settings" in inside(path):
        assert name_of(path).split(".")[0] in {"sources", "app", "workers", "commands", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES or name_of(path) in EXCEPTIONS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_a_screen(path: Path) -> None:
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            name = f"{name_of(path)}.{node.name}"
            assert lines <= FUNCTION_LINES or name in EXCEPTIONS, f"{name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_a_thing_is(path: Path) -> None:
    vague = re.compile(r"manager|helper|utils?$", re.IGNORECASE)
    assert not vague.search(path.stem)
    for node in nodes_of(path):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            assert not vague.search(node.name), node.name


def test_tests_outweigh_the_code() -> None:
    """At least 1.2 lines of test for a line of code, blank lines and comments left out on both sides."""

    def lines(paths: Iterator[Path]) -> int:
        rows = (row.strip() for path in paths for row in path.read_text(encoding="utf-8").splitlines())
        return sum(bool(row) and not row.startswith("#") for row in rows)

    code, tests = lines(iter(MODULES)), lines((ROOT / "tests").rglob("*.py"))
    assert tests >= 1.2 * code, f"{tests} lines of test for {code} lines of code"
