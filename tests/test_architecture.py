"""The layering, enforced: who may import whom, and what the layers without I/O may not touch.

The tables below are the design; a module that is not in them fails, a module that is planned but
not written yet does not.  Each rule is a function from parsed sources to complaints, so that a
small offending source can prove that the rule is able to fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MAILSRV_LAYERS = {
    "values": "__init__ units settings address command parameters reply envelope",
    "protocol and decisions, no I/O": (
        "content chunking transaction handlers question state house session seams unwired"
        " wanted checks dnsbl policy deliberation greylist pool limits networks rates proxyheader"
        " directory trace deadlines dnscache dnsmessage"
        " metrics"
    ),
    "machinery": "clock timers poll loop",
    "shells": (
        "wire alarm premises connection listener maildir discard journal resolvconf"
        " dnsexchange resolver"
        " recipienttable greystore tls channel logfile metricspage systemd privileges processinfo"
    ),
    "wiring": "values places config inspection server doors supplies signals service cli __main__",
}
"""Lowest first; a module imports from its own layer or a lower one."""

REPLAY_LAYERS = {
    "values": "__init__ duration octets oddity replies script notation",
    "containers and text": (
        "unused source records pcapfile pcapng linktypes framing fragments pcapwrite pcapngwrite"
        " packet packetwrite"
        " recording"
        " masks header wellformed transcript_read transcript_write transcript_rewrite transcript"
    ),
    "from packets to scripts": (
        "flow half recognise reassembly conversation capture anchors importer filing summary"
        " vocabulary lookalike lookalike_ip cleantext cleanmail cleansmtp leftover sanitize"
    ),
    "a run and what it showed": (
        "worldtable nameserver world target tlsclient link reallink wire observed timetable pacing"
        " harness compare update dialogue diff"
        " moments export"
    ),
    "drivers": (
        "virtual realtime runs targetrun cuts edges shrink sender virtual_sender load_plan"
        " load_tally load_session load passage record shelf serving policydiff targetdiff"
    ),
    "shown to people": (
        "report progress target_report load_report diff_report verbs show"
        " markup pairing timescale ladder_label svg_ladder html_capture html_report"
    ),
    "surfaces": "pytest_plugin commands cli __main__",
}

LAYERS_WITHOUT_IO = 2
"""The first so many layers of mailsrv see no socket, clock, file or dice."""

OUTSIDE_WORLD = """
    asyncio fcntl glob importlib logging multiprocessing os pathlib random secrets select
    selectors shutil signal socket socketserver sqlite3 ssl subprocess tempfile threading time uuid
"""

TYPES_SEEN_FROM_BELOW = frozenset({"clock"})
"""Modules whose Protocol a lower layer may name in annotations, under TYPE_CHECKING only."""

REPLAY_HARNESS = frozenset(
    {"virtual", "harness", "link", "wire", "pytest_plugin", "cli", "commands", "policydiff"}
    | {"world", "worldtable", "nameserver", "passage", "record", "serving", "shelf"}
)
"""The modules of replay that may import any of mailsrv."""

MAILSRV_FOR_ALL_OF_REPLAY = frozenset({"clock", "units"})


@dataclass(frozen=True)
class Import:
    """``target`` is absolute and dotted, down to the imported name where there is one."""

    target: str
    line: int
    typing_only: bool

    def module_in(self, package: str) -> str | None:
        """The module of ``package`` that is meant ("" for the package itself), else None."""
        first, _, rest = self.target.partition(".")
        return rest.partition(".")[0] if first == package else None


Modules = Mapping[str, str]
"""Source text by path within a package: ``"session.py"``."""


def read_package(name: str) -> dict[str, str]:
    folder = ROOT / name
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def module_name(path: str) -> str:
    """The module a file belongs to; the files of a subpackage belong to the subpackage."""
    return Path(path).parts[0].removesuffix(".py")


def imports(package: str, path: str, text: str) -> Iterator[Import]:
    """Every import in a source, inside functions and conditions too."""

    def visit(node: ast.AST, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parents = [package, *Path(path).parts[:-1]]
                base = parents[: len(parents) - node.level + 1] + base
            for alias in node.names:
                yield Import(".".join([*base, alias.name]), node.lineno, typing_only)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            for statement in node.body:
                yield from visit(statement, True)
            for statement in node.orelse:
                yield from visit(statement, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, typing_only)

    return visit(ast.parse(text, path), False)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def layer_numbers(layers: Mapping[str, str]) -> dict[str, int]:
    return {
        name: number for number, names in enumerate(layers.values()) for name in names.split()
    }


# -- the rules ------------------------------------------------------------------------------------


def unlisted(modules: Modules, layers: Mapping[str, str]) -> list[str]:
    known = layer_numbers(layers)
    return [f"{path}: in no layer" for path in modules if module_name(path) not in known]


def upward_imports(package: str, modules: Modules, layers: Mapping[str, str]) -> list[str]:
    layer = layer_numbers(layers)
    found = []
    for path, text in modules.items():
        own = layer.get(module_name(path), len(layers))
        for one in imports(package, path, text):
            target = one.module_in(package)
            if target not in layer or layer[target] <= own:
                continue
            if one.typing_only and target in TYPES_SEEN_FROM_BELOW:
                continue
            found.append(f"{path}:{one.line}: imports {target}, {layer[target] - own} layers up")
    return found


def import_cycles(package: str, modules: Modules) -> list[str]:
    """Cycles among the imports that happen at run time, wherever they stand."""
    names = {module_name(path) for path in modules}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path, text in modules.items():
        own = module_name(path)
        for one in imports(package, path, text):
            target = one.module_in(package)
            if target in names and target != own and not one.typing_only:
                graph[own].add(target)
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        for name in leaves:
            del graph[name]
    return [f"{name}: in or above a cycle of imports" for name in sorted(graph)]


def outside_world(package: str, modules: Modules, layers: Mapping[str, str]) -> list[str]:
    """What the layers without I/O take from the outside world."""
    layer = layer_numbers(layers)
    found = []
    for path, text in modules.items():
        if layer.get(module_name(path), LAYERS_WITHOUT_IO) >= LAYERS_WITHOUT_IO:
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
        if one.module_in(other) is not None
    ]


def server_imports_beside_the_harness(modules: Modules) -> list[str]:
    return [
        f"{path}:{one.line}: imports {one.target}"
        for path, text in modules.items()
        if module_name(path) not in REPLAY_HARNESS
        for one in imports("replay", path, text)
        if (target := one.module_in("mailsrv")) is not None
        and target not in MAILSRV_FOR_ALL_OF_REPLAY
    ]


# -- they hold ------------------------------------------------------------------------------------


def nothing_in(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_module_has_a_layer() -> None:
    nothing_in(unlisted(read_package("mailsrv"), MAILSRV_LAYERS))
    nothing_in(unlisted(read_package("replay"), REPLAY_LAYERS))


def test_imports_go_downward_only() -> None:
    nothing_in(upward_imports("mailsrv", read_package("mailsrv"), MAILSRV_LAYERS))
    nothing_in(upward_imports("replay", read_package("replay"), REPLAY_LAYERS))


def test_no_imports_form_a_cycle() -> None:
    nothing_in(import_cycles("mailsrv", read_package("mailsrv")))
    nothing_in(import_cycles("replay", read_package("replay")))


def test_the_lower_layers_do_no_io() -> None:
    nothing_in(outside_world("mailsrv", read_package("mailsrv"), MAILSRV_LAYERS))


def test_mailsrv_never_imports_replay() -> None:
    nothing_in(imports_of("replay", "mailsrv", read_package("mailsrv")))


def test_only_the_harness_of_replay_imports_the_server() -> None:
    nothing_in(server_imports_beside_the_harness(read_package("replay")))


# -- and each can fail ----------------------------------------------------------------------------

TWO_LAYERS = {"low": "low other", "high": "high clock"}


def test_a_module_in_no_layer_is_found() -> None:
    assert unlisted({"low.py": "", "surprise.py": "", "bag/x.py": ""}, TWO_LAYERS) == [
        "surprise.py: in no layer",
        "bag/x.py: in no layer",
    ]


def test_an_upward_import_is_found_in_each_of_its_forms() -> None:
    for line in (
        "import pkg.high",
        "from pkg import high",
        "from pkg.high import thing",
        "from . import high",
        "from .high import thing",
        "def f():\n    from pkg.high import thing",
        "try:\n    import pkg.high\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    from pkg.high import thing",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from pkg.clock import Clock",
    ):
        assert len(upward_imports("pkg", {"low.py": line}, TWO_LAYERS)) == 1, line
    assert upward_imports("pkg", {"low/deep.py": "from ..high import thing"}, TWO_LAYERS)


def test_imports_downward_and_sideways_and_of_the_clocks_type_are_allowed() -> None:
    modules = {
        "high.py": "from pkg.low import x\nfrom pkg import clock",
        "low.py": "from .other import y\nif TYPE_CHECKING:\n    from pkg.clock import Clock",
    }
    assert upward_imports("pkg", modules, TWO_LAYERS) == []


def test_a_cycle_is_found_through_three_modules_and_through_a_function() -> None:
    modules = {
        "a.py": "from pkg import b",
        "b.py": "import pkg.c",
        "c.py": "def f():\n    from .a import x",
        "d.py": "import pkg.e",
        "e.py": "",
    }
    assert [line.partition(":")[0] for line in import_cycles("pkg", modules)] == ["a", "b", "c"]


def test_a_cycle_only_for_annotations_is_none() -> None:
    modules = {"a.py": "import pkg.b", "b.py": "if TYPE_CHECKING:\n    import pkg.a"}
    assert import_cycles("pkg", modules) == []


def test_io_in_a_lower_layer_is_found() -> None:
    for line in (
        *(f"import {name}" for name in OUTSIDE_WORLD.split()),
        "from os.path import join",
        "def f():\n    import socket",
        "text = open('x').read()",
        "import io\nio.open('x')",
    ):
        assert len(outside_world("pkg", {"low.py": line}, TWO_LAYERS)) == 1, line


def test_io_in_a_higher_layer_is_allowed() -> None:
    layers = {"zero": "zero", "one": "one", "two": "two"}
    modules = {"zero.py": "import re", "one.py": "import enum", "two.py": "import socket, time"}
    assert outside_world("pkg", modules, layers) == []


def test_an_import_of_replay_is_found() -> None:
    modules = {"a.py": "import replay", "b.py": "from replay.script import At", "c.py": "import re"}
    assert len(imports_of("replay", "mailsrv", modules)) == 2


def test_an_import_of_the_server_beside_the_harness_is_found() -> None:
    modules = {
        "compare.py": "from mailsrv.reply import Reply\nfrom mailsrv import clock",
        "packet.py": "import mailsrv",
        "script.py": "from mailsrv.units import NS_PER_S",
        "virtual.py": "from mailsrv.server import Server",
    }
    assert server_imports_beside_the_harness(modules) == [
        "compare.py:1: imports mailsrv.reply.Reply",
        "packet.py:1: imports mailsrv",
    ]
