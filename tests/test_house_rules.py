"""Rules about what code may say, enforced: one clock, no sleeping, bounds on size, no hidden state.

Each rule is a function from one parsed source to complaints; the second half of this file feeds
each a small offending source, to prove that it is able to fail.  They read syntax, not types, so
they catch the honest slip and not the determined trick.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

THE_CLOCK = "mailsrv/runtime/clock.py"
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

CLOCK_MODULES = {"time", "asyncio", "sched", "timeit"}
"""Modules that tell the time or cannot run without telling it."""
CLOCK_CALLS = {"now", "utcnow", "today", "time", "perf_counter", "localtime", "uuid1", "make_msgid"}
"""Functions and methods that read a clock, whatever they are called on."""
DICE = {"random.Random", "random.SystemRandom"}
"""What may be used of ``random``: the rest of it is one generator shared by everybody."""
VIRTUAL_CLOCK = "replay/play/virtual_asyncio/"
"""The event loop whose clock is ours: who stands on that clock may be written with asyncio."""
SLEEPERS = {"sleep", "sigtimedwait"}
REGEX_CALLS = {
    *("compile", "match", "search", "fullmatch", "findall", "finditer", "split", "sub", "subn"),
}
MUTABLE_LITERALS = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
MUTABLE_CALLS = {
    *("list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict"),
}
MUTATORS = {
    *("append", "appendleft", "extend", "insert", "remove", "pop", "popleft", "popitem", "clear"),
    *("add", "discard", "update", "setdefault", "sort", "reverse"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One file: its path from the root of the project, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call, with the callee as written: ``"self.clock.now"``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, ast.unparse(node.func)

    def imported(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


Rule = Callable[[Source], list[str]]


def sources(*folders: str, pattern: str = "*.py") -> list[Source]:
    return [
        Source(str(path.relative_to(ROOT)), path.read_text("utf-8"))
        for folder in folders
        for path in sorted((ROOT / folder).rglob(pattern))
    ]


def collected() -> list[Source]:
    """What pytest runs.  A script in captures/ that records a slow sender may well sleep."""
    return sources("tests") + [
        source
        for source in sources("captures")
        if Path(source.path).name.startswith(("test_", "conftest"))
    ]


def expect_none(rule: Rule, over: Iterable[Source]) -> None:
    found = [f"{source.path}:{complaint}" for source in over for complaint in rule(source)]
    assert not found, "\n" + "\n".join(found)


# -- the rules ------------------------------------------------------------------------------------


def clock_reads(source: Source) -> list[str]:
    """Reading a clock past ``mailsrv.runtime.clock``; stdlib logging does so by itself."""
    found = [
        f"{line}: imports {name}"
        for line, name in source.imported()
        if name.partition(".")[0] in CLOCK_MODULES
    ]
    for call, callee in source.calls():
        owner, _, name = callee.rpartition(".")
        without_instant = name == "formatdate" and not call.args
        if (owner and name in CLOCK_CALLS) or without_instant:
            found.append(f"{call.lineno}: calls {callee}")
    return found


def logging_imports(source: Source) -> list[str]:
    return [
        f"{line}: imports {name}"
        for line, name in source.imported()
        if name.partition(".")[0] == "logging"
    ]


def shared_dice(source: Source) -> list[str]:
    """Random numbers from a generator that no constructor was given."""
    found = [f"{line}: imports {name}" for line, name in source.imported() if name == "secrets"]
    found += [
        f"{call.lineno}: calls {callee}"
        for call, callee in source.calls()
        if callee.startswith("random.") and callee not in DICE
    ]
    return found


def sleeps(source: Source) -> list[str]:
    """Waiting for time to pass, or looking at the real clock to see whether it did."""
    found = [
        f"{line}: imports {name}"
        for line, name in source.imported()
        if name.partition(".")[0] in {"time", "sched"}
    ]
    has_events = any(f".{name}(" in source.text for name in ("Event", "Condition", "Barrier"))
    for call, callee in source.calls():
        name = callee.rpartition(".")[2]
        lone_select = name == "select" and [ast.unparse(arg) for arg in call.args[:3]] == ["[]"] * 3
        timed_wait = name in {"wait", "wait_for"} and has_events and (call.args or call.keywords)
        if name in SLEEPERS or callee == "signal.pause" or lone_select or timed_wait:
            found.append(f"{call.lineno}: calls {callee}")
    found += [
        f"{node.lineno}: runs sleep(1)"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "'sleep'"
    ]
    return found


def long_functions(source: Source) -> list[str]:
    return [
        f"{function.lineno}: {function.name} has {lines} lines, {FUNCTION_LINES_MAX} are enough"
        for function in source.functions
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]


def longer_than(lines_max: int) -> Rule:
    def rule(source: Source) -> list[str]:
        lines = source.text.count("\n")
        return [f"1: {lines} lines, {lines_max} are enough"] if lines > lines_max else []

    return rule


def regexes_at_run_time(source: Source) -> list[str]:
    """Regular expressions made or looked up when a function runs instead of at import."""
    found = [
        f"{line}: imports {name}"
        for line, name in source.imported()
        if name.startswith("re.") and name.removeprefix("re.") in REGEX_CALLS
    ]
    found += [
        f"{node.lineno}: calls re.{node.func.attr} in {function.name}"
        for function in source.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "re"
        and node.func.attr in REGEX_CALLS
    ]
    return found


def mutable_globals(source: Source) -> list[str]:
    """Module-level containers that a function changes, and ``global`` statements."""
    shared = {name for node in source.tree.body for name in mutable_names(node)}
    found = []
    for function in source.functions:
        own = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        own |= {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                found.append(f"{node.lineno}: {function.name} declares global state")
            elif isinstance(node, ast.expr) and (name := changed_name(node)) in shared - own:
                found.append(f"{node.lineno}: {function.name} changes {name}")
    return found


def mutable_names(node: ast.stmt) -> Iterator[str]:
    """The names that a module-level assignment binds to a list, dict, set or the like."""
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return
    value = node.value
    literal = isinstance(value, MUTABLE_LITERALS)
    called = isinstance(value, ast.Call) and (
        ast.unparse(value.func).rpartition(".")[2] in MUTABLE_CALLS
    )
    if literal or called:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def changed_name(node: ast.expr) -> str | None:
    """``X`` for ``X.append(...)``, ``X[...] = ...``, ``del X[...]`` and ``X[...] += ...``."""
    holder: ast.expr | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        holder = node.value
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in MUTATORS
    ):
        holder = node.func.value
    return holder.id if isinstance(holder, ast.Name) else None


def patching(source: Source) -> list[str]:
    """Changing the program under test from outside instead of handing it what it needs."""
    found = [
        f"{line}: imports {name}"
        for line, name in source.imported()
        if name.startswith("unittest.mock") or name == "pytest.MonkeyPatch"
    ]
    found += [
        f"{node.lineno}: asks for {node.arg}"
        for function in source.functions
        for node in ast.walk(function.args)
        if isinstance(node, ast.arg) and node.arg in {"monkeypatch", "mocker"}
    ]
    return found


# -- they hold ------------------------------------------------------------------------------------


def test_nothing_but_the_clock_module_reads_a_clock() -> None:
    users = [
        one
        for one in sources("mailsrv", "replay")
        if one.path != THE_CLOCK and not one.path.startswith(VIRTUAL_CLOCK)
    ]
    expect_none(clock_reads, users)


def test_mailsrv_does_not_log_with_a_clock_of_its_own() -> None:
    expect_none(logging_imports, sources("mailsrv"))


def test_randomness_comes_in_through_constructors() -> None:
    expect_none(shared_dice, sources("mailsrv", "replay"))


def test_no_test_sleeps() -> None:
    expect_none(sleeps, collected())


def test_files_and_functions_stay_small() -> None:
    everything = sources("mailsrv", "replay", "benchmarks", "captures", "tests")
    expect_none(longer_than(FILE_LINES_MAX), everything)
    expect_none(long_functions, everything)


def test_mailsrv_compiles_its_regular_expressions_at_import() -> None:
    expect_none(regexes_at_run_time, sources("mailsrv"))


def test_mailsrv_keeps_no_state_in_globals() -> None:
    expect_none(mutable_globals, sources("mailsrv"))


def test_tests_inject_and_do_not_patch() -> None:
    expect_none(patching, collected())


# -- and each can fail ----------------------------------------------------------------------------


def check(rule: Rule, *, bad: Iterable[str], good: Iterable[str]) -> None:
    for text in bad:
        assert len(rule(Source("x.py", text))) == 1, text
    for text in good:
        assert rule(Source("x.py", text)) == [], text


def test_reading_a_clock_is_found_in_each_of_its_forms() -> None:
    check(
        clock_reads,
        bad=[
            "import time",
            "from time import monotonic_ns",
            "def f():\n    import time as t",
            "import asyncio",
            "datetime.now()",
            "datetime.datetime.utcnow()",
            "date.today()",
            "loop.time()",
            "uuid.uuid1()",
            "email.utils.formatdate()",
            "formatdate(localtime=True)",
        ],
        good=[
            "clock.monotonic_ns()",
            "self._clock.realtime_ns()",
            "now = now_ns + 1",
            "formatdate(at_s)",
            "datetime.fromtimestamp(at_s, tz=UTC)",
            "import timers",
        ],
    )


def test_logging_is_found() -> None:
    check(
        logging_imports,
        bad=["import logging", "from logging.handlers import X"],
        good=["from mailsrv import journal", "import loggings"],
    )


def test_dice_that_were_not_handed_in_are_found() -> None:
    check(
        shared_dice,
        bad=["random.random()", "x = random.randrange(5)", "import secrets"],
        good=["random.SystemRandom()", "random.Random(7)", "self._random.randrange(5)"],
    )


def test_sleeping_is_found_in_each_of_its_forms() -> None:
    check(
        sleeps,
        bad=[
            "import time",
            "from time import sleep",
            "gevent.sleep(1)",
            "async def f():\n    await asyncio.sleep(0)",
            "done = threading.Event()\ndone.wait(0.1)",
            "done = threading.Event()\ndone.wait(timeout=1)",
            "select.select([], [], [], 0.1)",
            "signal.pause()",
            "subprocess.run(['sleep', '1'])",
        ],
        good=[
            "process.wait(timeout=10)",
            "select.select([sock], [], [], 0.1)",
            "clock.advance(90)",
            "send('x', pause=90)",
            "done = threading.Event()\ndone.wait()",
        ],
    )


def test_a_long_file_and_a_long_function_are_found() -> None:
    check(longer_than(3), bad=["x\n" * 4], good=["x\n" * 3])
    body = "    x = 1\n" * FUNCTION_LINES_MAX
    check(
        long_functions,
        bad=[f"def f():\n{body}", f"async def f():\n{body}"],
        good=[f"def f():\n{body[: body.rindex('    ')]}"],
    )


def test_a_regular_expression_made_at_run_time_is_found() -> None:
    check(
        regexes_at_run_time,
        bad=[
            "def f(x):\n    return re.compile(x)",
            "class C:\n    def m(self, x):\n        return re.match('a', x)",
            "from re import match",
        ],
        good=[
            "P = re.compile('a')\ndef f(x):\n    return P.match(x)",
            "def f(x):\n    return re.escape(x)",
        ],
    )


def test_global_state_is_found() -> None:
    check(
        mutable_globals,
        bad=[
            "SEEN = []\ndef f():\n    SEEN.append(1)",
            "SEEN: dict[str, int] = {}\ndef f():\n    SEEN['a'] = 1",
            "SEEN = collections.defaultdict(int)\ndef f():\n    SEEN['a'] += 1",
            "SEEN = set()\nclass C:\n    def m(self):\n        SEEN.add(1)",
            "SEEN = {}\ndef f():\n    del SEEN['a']",
            "COUNT = 0\ndef f():\n    global COUNT",
        ],
        good=[
            "TABLE = {'a': 1}\ndef f():\n    return TABLE['a']",
            "SEEN = []\ndef f():\n    SEEN = []\n    SEEN.append(1)",
            "SEEN = []\ndef f(SEEN):\n    SEEN.append(1)",
            "TABLE = {}\nTABLE['a'] = 1",
        ],
    )


def test_patching_is_found() -> None:
    check(
        patching,
        bad=[
            "def test_x(monkeypatch): pass",
            "def test_x(*, monkeypatch: pytest.MonkeyPatch) -> None: pass",
            "from unittest.mock import patch",
            "from pytest import MonkeyPatch",
        ],
        good=["def test_x(tmp_path): pass"],
    )
