"""Parses command lines: what is wrong with one is told with its command and the way to its help."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

COMPARED_MAX_CHARACTERS = 80
"""Of an unknown option, when the one that was meant is looked for."""


class CommandLineParser(argparse.ArgumentParser):
    """A parser that knows options by their whole names alone, and names the nearest one to an
    option that is none.  The parsers of its commands are of the same kind, and each complains
    itself."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of ``argparse``, but ends the program where anything is left over."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._complaint(unknown[0]))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint, and exit with 2."""
        end = "" if message.endswith("?") else ";"
        super().error(f"{message}{end} see '{self.prog} --help'")

    def _complaint(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument {argument}"
        name = argument.partition("=")[0]
        options = [option for option in self._option_string_actions if "=" not in option]
        near = difflib.get_close_matches(name[:COMPARED_MAX_CHARACTERS], options, 1)
        return f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else "")
