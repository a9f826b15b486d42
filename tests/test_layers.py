"""Imports point down: reads them all and fails on an arrow that points up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From bottom to top. Modules of one line may import each other, unless `APART` forbids it; none imports a line below it.
LAYERS = [
    ["errors", "clock", "durable"],
    ["digest", "names", "generation"],
    ["descriptor", "promises", "hashing", "pool", "locations", "units", "durable"],
    ["layout", "manifest", "events"],
    ["abc"],
    ["references"],
    ["backends", "index"],
    ["marker", "journal", "inventory"],
    ["parts"],
    ["uploads", "readers"],
    ["repository"],
    ["store"],
    ["gc", "missing", "scrub", "reconcile", "rebuild"],
    ["importers", "replication", "exporter", "usage", "config"],
    ["remote"],
    ["app"],
    ["blocking"],
    ["server"],
    ["testing"],
    ["cli", "__main__"],
]
# Beside each other: neither imports the other.
APART = [("backends", "index"), ("store", "gc")]
# Storage of one vendor each, with helpers (`_name`) that they may share.
VENDORS = ("backends", "index")
# The parts of the server, from bottom to top; those of one line are beside each other.
SERVER_LAYERS = [["protocol"], ["web", "auth", "operations"], ["daemon"]]
SERVER_RANK = {name: rank for rank, names in enumerate(SERVER_LAYERS) for name in names}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The package itself hands the names of the library on; it stands above all but the command line.
RANK[""] = RANK["cli"]


def _files() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.glob("blobstore/**/*.py")):
        inner = path.relative_to(ROOT / "blobstore")
        if inner.parts[0] != "gc":
            yield ".".join(inner.with_suffix("").parts).removesuffix("__init__").rstrip("."), path
    for path in sorted(ROOT.glob("gc/**/*.py")):
        inner = path.relative_to(ROOT)
        yield ".".join(inner.with_suffix("").parts).removesuffix(".__init__"), path


FILES = dict(_files())


def _imports(path: Path) -> Iterator[str]:
    """Whole names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def _ours(path: Path) -> Iterator[str]:
    """Names below the package, each a module of ours (`abc.index`), "" for the package itself."""
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "blobstore":
            continue
        inner = parts[1:]
        while inner and ".".join(inner) not in FILES:
            inner.pop()
        yield ".".join(inner)


def _top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def test_the_files_are_found() -> None:
    """All of both trees, `gc` once."""
    assert {"errors", "abc.index", "index.lmdb", "gc"} <= set(FILES)


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_layer(module: str) -> None:
    """A new one is entered into the list."""
    assert _top(module) in RANK


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    """No module imports one that stands above it."""
    # One that has no layer yet fails in the test above, once.
    own = RANK.get(_top(module), len(LAYERS))
    upward = [name for name in _ours(FILES[module]) if RANK.get(_top(name), 0) > own]
    assert not upward


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_the_package(module: str) -> None:
    """Only the command line goes through the front door."""
    assert _top(module) in ("", "cli", "blocking") or "" not in set(_ours(FILES[module]))


@pytest.mark.parametrize("module", FILES)
def test_neighbours_stay_apart(module: str) -> None:
    """Backends and indexes, store and gc know nothing of each other."""
    forbidden = {other for pair in APART if _top(module) in pair for other in pair if other != _top(module)}
    assert not forbidden & {_top(name) for name in _ours(FILES[module])}


@pytest.mark.parametrize("module", [name for name in FILES if _top(name) in VENDORS and "." in name])
def test_vendors_do_not_import_each_other(module: str) -> None:
    """What two share has a name with an underscore, and imports neither."""
    others = [
        name
        for name in _ours(FILES[module])
        if _top(name) == _top(module) and name != module and "." in name and not name.split(".")[1].startswith("_")
    ]
    assert not others


@pytest.mark.parametrize("module", FILES)
def test_foreign_packages_stay_in_their_place(module: str) -> None:
    """LMDB in the storage, what draws and parses commands in the command line, pytest in the suites."""
    places = {
        "lmdb": {"backends", "index"},
        "rich": {"cli"},
        "cyclopts": {"cli"},
        "pytest": {"testing"},
        "pytest_asyncio": {"testing"},
        "hypothesis": {"testing"},
        "aiohttp": {"server", "server.web", "server.daemon", "server.operations", "backends"},
    }
    used = {name.split(".")[0] for name in _imports(FILES[module])}
    own = {".".join(module.split(".")[:2])} | ({_top(module)} - {"server"})
    assert not [name for name in used if name in places and not own & places[name]]


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("server.") and name != "server.__main__"])
def test_parts_of_the_server_point_down(module: str) -> None:
    """The protocol knows neither the web framework nor who asks; the parts above it know it, and not each other."""
    part = module.split(".")[1]
    others = {name.split(".")[1] for name in _ours(FILES[module]) if name.startswith("server.")} - {part}
    assert not [other for other in others if SERVER_RANK[other] >= SERVER_RANK[part]]


def test_gc_is_one_package() -> None:
    """`blobstore/gc` is a link to the folder at the top, or was unpacked from a wheel as that folder."""
    assert (ROOT / "blobstore" / "gc" / "__init__.py").read_bytes() == (ROOT / "gc" / "__init__.py").read_bytes()
