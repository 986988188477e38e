"""The layering, enforced: which folder may import which, and what the pure folders may not touch.

Two ordered lists of folder names are the design, with one rule: imports go to the same folder or
to one that stands earlier in the list, typing-only imports included.  Each rule is a function
from sources to complaints, so that a deliberate breach can prove that the rule is able to fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAILSRV = (
    *("__init__", "units", "settings", "smtp", "runtime", "transport", "policy", "resolver"),
    *("stores", "config", "telemetry", "delivery", "inbound", "server", "daemon"),
    *("command_line", "operate", "cli"),
    "__main__",
)
REPLAY = (
    *("__init__", "counted", "smtp", "capture", "transcript", "sanitize", "play", "record"),
    *(
        "load",
        "testing",
        "verify",
        "convert",
        "report",
        "pytest_items",
        "pytest_plugin",
        "locust_user",
        "cli",
        "__main__",
    ),
)
"""The folders and top modules of each package, in the order in which they may import."""

PURE = ("__init__", "units", "settings", "smtp", "policy")
"""Folders of mailsrv that see no socket, clock, file or randomness."""

OUTSIDE_WORLD = """
    asyncio fcntl glob importlib logging multiprocessing os pathlib random secrets select
    selectors shutil signal socket socketserver sqlite3 ssl subprocess tempfile threading time uuid
"""

USERS_OF_THE_SERVER = (
    *("play/mailsrv_harness", "play/fakes/nameserver", "play/fakes/world"),
    *("play/fakes/config", "play/fakes/watched_courier", "play/kept_log"),
    *("record/proxy", "record/proxy_connection", "record/proxy_side", "record/server_tap"),
    "verify/diff_runs",
    "testing/__init__",
)
"""The modules of replay that may import any of mailsrv."""

MAILSRV_FOR_ALL_OF_REPLAY = (
    *("mailsrv.__version__", "mailsrv.command_line", "mailsrv.runtime.clock", "mailsrv.units"),
)

MODULES_IN_A_FOLDER_MAX = 16


@dataclass(frozen=True)
class Import:
    """``target`` is absolute and dotted, down to the imported name where there is one."""

    target: str
    line: int

    def room_in(self, package: str) -> str | None:
        """The folder or top module of ``package`` that is meant ("" for itself), else None."""
        first, _, rest = self.target.partition(".")
        return rest.partition(".")[0] if first == package else None


Modules = Mapping[str, str]
"""Source text by path within a package: ``"smtp/session.py"``."""


def read_package(name: str) -> dict[str, str]:
    folder = ROOT / name
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def room(path: str) -> str:
    """The folder or top module that a file belongs to."""
    return Path(path).parts[0].removesuffix(".py")


def imports(package: str, path: str, text: str) -> Iterator[Import]:
    """Every import in a source, inside functions and conditions too."""
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parents = [package, *Path(path).parts[:-1]]
                base = parents[: len(parents) - node.level + 1] + base
            for alias in node.names:
                yield Import(".".join([*base, alias.name]), node.lineno)


# -- the rules ------------------------------------------------------------------------------------


def unlisted(modules: Modules, order: Sequence[str]) -> list[str]:
    return [f"{path}: in no folder of the list" for path in modules if room(path) not in order]


def upward_imports(package: str, modules: Modules, order: Sequence[str]) -> list[str]:
    place = {name: number for number, name in enumerate(order)}
    return [
        f"{path}:{one.line}: imports {one.target}, from {target} below it in the list"
        for path, text in modules.items()
        for one in imports(package, path, text)
        if (target := one.room_in(package)) in place
        and place[target] > place.get(room(path), len(order))
    ]


def import_cycles(package: str, modules: Modules) -> list[str]:
    """Circles among modules, through imports for annotations too."""
    names = {dotted(package, path): path for path in modules}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        targets = {module_of(one.target, names) for one in imports(package, path, modules[path])}
        graph[name] = {target for target in targets if target and target != name}
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        for name in leaves:
            del graph[name]
    return [f"{names[name]}: in a circle of imports, or above one" for name in sorted(graph)]


def dotted(package: str, path: str) -> str:
    return ".".join([package, *Path(path).with_suffix("").parts]).removesuffix(".__init__")


def module_of(target: str, names: Mapping[str, str]) -> str | None:
    """The module that a dotted name lies in: itself, or the nearest above."""
    while target and target not in names:
        target = target.rpartition(".")[0]
    return target or None


def outside_world(package: str, modules: Modules, pure: Sequence[str]) -> list[str]:
    """What the pure folders take from the outside world."""
    found = []
    for path, text in modules.items():
        if room(path) not in pure:
            continue
        found += [
            f"{path}:{one.line}: imports {one.target}"
            for one in imports(package, path, text)
            if one.target.partition(".")[0] in OUTSIDE_WORLD.split()
        ]
        found += [
            f"{path}:{node.lineno}: opens a file"
            for node in ast.walk(ast.parse(text, path))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "io.open")
        ]
    return found


def imports_of(other: str, package: str, modules: Modules) -> list[str]:
    return [
        f"{path}:{one.line}: imports {one.target}"
        for path, text in modules.items()
        for one in imports(package, path, text)
        if one.room_in(other) is not None
    ]


def server_imports(path: str, text: str) -> list[str]:
    """What a module of replay takes of mailsrv, beyond what all may have."""
    return [
        complaint
        for complaint in imports_of("mailsrv", "replay", {path: text})
        if not complaint.partition(": imports ")[2].startswith(MAILSRV_FOR_ALL_OF_REPLAY)
    ]


def server_imports_beside_its_users(modules: Modules) -> list[str]:
    return [
        complaint
        for path, text in modules.items()
        if not within(path, USERS_OF_THE_SERVER)
        for complaint in server_imports(path, text)
    ]


def idle_users_of_the_server(modules: Modules) -> list[str]:
    """Modules that may import the server and do not: the list says no more than is true."""
    users = [f"{place}.py" for place in USERS_OF_THE_SERVER]
    return [path for path in users if not server_imports(path, modules.get(path, ""))]


def within(path: str, places: Sequence[str]) -> bool:
    """Whether a file is one of ``places`` or lies in one of them."""
    name = path.removesuffix(".py")
    return any(name == place or name.startswith(place + "/") for place in places)


def crowded_folders(modules: Modules) -> list[str]:
    """A folder's modules, its ``__init__`` and typing marker not counted."""
    folders: dict[str, int] = {}
    for path in modules:
        if not path.endswith("__init__.py"):
            folder = str(Path(path).parent)
            folders[folder] = folders.get(folder, 0) + 1
    return [
        f"{folder}: {number} modules"
        for folder, number in folders.items()
        if number > MODULES_IN_A_FOLDER_MAX
    ]


def wordy_inits(modules: Modules, but: Sequence[str] = ()) -> list[str]:
    """A folder's ``__init__`` is one sentence; ``but`` names those that re-export."""
    return [
        f"{path}: more than one sentence"
        for path, text in modules.items()
        if path.endswith("__init__.py") and path not in but and not one_sentence(text)
    ]


def one_sentence(text: str) -> bool:
    body = ast.parse(text).body
    if len(body) != 1:
        return False
    sentence = ast.get_docstring(ast.parse(text)) or ""
    return sentence.endswith(".") and ". " not in sentence and "\n" not in sentence


# -- they hold ------------------------------------------------------------------------------------

PACKAGES = pytest.mark.parametrize(("package", "order"), [("mailsrv", MAILSRV), ("replay", REPLAY)])


def nothing_in(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


@PACKAGES
def test_every_module_lies_in_a_folder_of_the_list(package: str, order: Sequence[str]) -> None:
    nothing_in(unlisted(read_package(package), order))


@PACKAGES
def test_imports_go_to_the_same_folder_or_an_earlier_one(
    package: str, order: Sequence[str]
) -> None:
    nothing_in(upward_imports(package, read_package(package), order))


@PACKAGES
def test_no_imports_form_a_circle(package: str, order: Sequence[str]) -> None:
    nothing_in(import_cycles(package, read_package(package)))


def test_protocol_and_decisions_do_no_io() -> None:
    nothing_in(outside_world("mailsrv", read_package("mailsrv"), PURE))


def test_mailsrv_never_imports_replay() -> None:
    nothing_in(imports_of("replay", "mailsrv", read_package("mailsrv")))


def test_only_mailsrvs_harness_its_fakes_and_the_recorders_import_the_server() -> None:
    nothing_in(server_imports_beside_its_users(read_package("replay")))


def test_each_module_that_may_import_the_server_does() -> None:
    nothing_in(idle_users_of_the_server(read_package("replay")))


@PACKAGES
def test_no_folder_is_crowded(package: str, order: Sequence[str]) -> None:
    nothing_in(crowded_folders(read_package(package)))


def test_each_folder_says_in_one_sentence_what_it_is() -> None:
    nothing_in(wordy_inits(read_package("mailsrv"), but=["__init__.py"]))
    nothing_in(wordy_inits(read_package("replay"), but=["testing/__init__.py"]))


# -- and each can fail ----------------------------------------------------------------------------

ORDER = ("low", "high")


def test_a_module_in_no_folder_of_the_list_is_found() -> None:
    assert unlisted({"low/a.py": "", "surprise.py": "", "bag/x.py": ""}, ORDER) == [
        "surprise.py: in no folder of the list",
        "bag/x.py: in no folder of the list",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "import pkg.high",
        "import pkg.high.thing",
        "from pkg import high",
        "from pkg.high.thing import name",
        "from .. import high",
        "from ..high import thing",
        "def f():\n    from pkg.high import thing",
        "try:\n    import pkg.high\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    from pkg.high import thing",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from pkg.high import thing",
    ],
)
def test_an_upward_import_is_found_in_each_of_its_forms(line: str) -> None:
    assert len(upward_imports("pkg", {"low/a.py": line}, ORDER)) == 1


def test_imports_downward_and_sideways_are_allowed() -> None:
    modules = {"high/b.py": "from pkg.low import x", "low/a.py": "from .other import y"}
    assert upward_imports("pkg", modules, ORDER) == []


def test_a_breach_put_into_the_real_tree_is_found() -> None:
    modules = read_package("mailsrv")
    modules["smtp/session.py"] += "\nfrom mailsrv.inbound.connection import Connection\n"
    assert upward_imports("mailsrv", modules, MAILSRV)
    assert import_cycles("mailsrv", modules)
    modules["policy/policy.py"] += "\nimport socket\n"
    assert outside_world("mailsrv", modules, PURE)
    clients = read_package("replay")
    clients["verify/divergence.py"] += "\nfrom mailsrv.smtp.session import Session\n"
    assert server_imports_beside_its_users(clients)


def test_a_circle_is_found_through_three_modules_a_function_and_an_annotation() -> None:
    modules = {
        "low/a.py": "from pkg.low import b",
        "low/b.py": "import pkg.low.c",
        "low/c.py": "def f():\n    from .a import x",
        "low/d.py": "import pkg.low.e",
        "low/e.py": "if TYPE_CHECKING:\n    from pkg.low.d import D",
        "low/f.py": "import pkg.low.g",
        "low/g.py": "",
    }
    found = [line.partition(":")[0] for line in import_cycles("pkg", modules)]
    assert found == ["low/a.py", "low/b.py", "low/c.py", "low/d.py", "low/e.py"]


def test_io_in_a_pure_folder_is_found() -> None:
    for line in (
        *(f"import {name}" for name in OUTSIDE_WORLD.split()),
        "from os.path import join",
        "def f():\n    import socket",
        "text = open('x').read()",
        "import io\nio.open('x')",
    ):
        assert len(outside_world("pkg", {"low/a.py": line}, ["low"])) == 1, line


def test_io_in_another_folder_is_allowed() -> None:
    modules = {"low/a.py": "import re", "high/b.py": "import socket, time"}
    assert outside_world("pkg", modules, ["low"]) == []


def test_an_import_of_replay_is_found() -> None:
    modules = {"a.py": "import replay", "b.py": "from replay.script import At", "c.py": "import re"}
    assert len(imports_of("replay", "mailsrv", modules)) == 2


def test_an_import_of_the_server_beside_its_users_is_found() -> None:
    modules = {
        "load/plan.py": "from mailsrv.smtp.reply import Reply\nfrom mailsrv.runtime import clock",
        "capture/segments.py": "import mailsrv",
        "play/real_link.py": "from mailsrv.server import Server",
        "play/mailsrv_harness.py": "from mailsrv.server import Server",
        "record/proxy.py": "from mailsrv.runtime.loop import Loop",
        "transcript/script.py": "from mailsrv.units import NS_PER_S",
    }
    assert server_imports_beside_its_users(modules) == [
        "load/plan.py:1: imports mailsrv.smtp.reply.Reply",
        "capture/segments.py:1: imports mailsrv",
        "play/real_link.py:1: imports mailsrv.server.Server",
    ]


def test_a_user_of_the_server_that_is_none_any_more_is_found() -> None:
    clients = read_package("replay")
    clients["record/proxy.py"] = "from mailsrv.runtime.clock import Clock"
    del clients["play/mailsrv_harness.py"]
    assert idle_users_of_the_server(clients) == ["play/mailsrv_harness.py", "record/proxy.py"]


def test_a_crowded_folder_is_found() -> None:
    many = {f"low/m{number}.py": "" for number in range(MODULES_IN_A_FOLDER_MAX)}
    assert crowded_folders(many | {"low/__init__.py": ""}) == []
    assert crowded_folders(many | {"low/more.py": ""}) == ["low: 17 modules"]


def test_an_init_that_does_more_than_say_what_its_folder_is_is_found() -> None:
    for text in ('"""One. Two."""', '"""One."""\nimport re', "", '"""No full stop"""'):
        assert wordy_inits({"low/__init__.py": text}), text
    assert wordy_inits({"low/__init__.py": '"""One sentence."""'}) == []
