"""Record real senders talking to a mail server: ``python captures/record NAME...``

Each sender is recorded twice: as it is, and with each reply held back (see ``relay``).  Needs
root, for namespaces and tcpdump; everything happens on loopback interfaces of their own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import evidence
import provenance
import stage
import take
from recipe import HERE, Recipe, RecipeError, load, names

HOLD_S = 0.2
DEFAULT_SERVER = (
    f"{sys.executable} -m mailsrv serve --config {{config}} --listen {{listen}} --delivery discard"
)


class Recorder:
    """Records recipes one after the other."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.cache: Path = wanted.cache
        self.output: Path = wanted.output
        self.server: str = wanted.server
        self.server_name: str = wanted.server_name
        self.private_words = evidence.private_words()

    def record(self, recipe: Recipe) -> None:
        """Both takes of one sender, and the note of where they come from."""
        layers = stage.stage(recipe, self.cache)
        folder = self.output / recipe.family
        folder.mkdir(parents=True, exist_ok=True)
        note = provenance.Note(recipe, *stage.version(recipe, layers), self.server_name)
        for suffix, hold_s in (("", 0.0), (".delayed", HOLD_S)):
            target = folder / f"{recipe.name}{suffix}.pcap"
            seen = self._take(recipe, layers, target, hold_s)
            note.add(target.name, seen, hold_s)
            print(f"{target}: {seen.packets} packets, {seen.begun} connections", flush=True)
        note.write(folder / f"{recipe.name}.toml")

    def _take(
        self, recipe: Recipe, layers: list[Path], target: Path, hold_s: float
    ) -> evidence.Evidence:
        with tempfile.TemporaryDirectory(prefix="take-") as scratch:
            # tcpdump writes beside the target: a failed take leaves the old capture alone.
            fresh = target.with_suffix(".pcap.new")
            command = [*take.NAMESPACES, sys.executable, str(HERE / "take.py"), recipe.name]
            command += [str(fresh), "--scratch", scratch, "--server", self.server]
            command += ["--hold-s", str(hold_s)]
            command += [word for layer in layers for word in ("--layer", str(layer))]
            try:
                done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    raise take.TakeError(f"{target.name}: {done.stderr.strip()}")
                if words := evidence.betrayed(fresh, self.private_words):
                    raise take.TakeError(f"{target.name}: holds {', '.join(words)}")
                fresh.replace(target)
            finally:
                fresh.unlink(missing_ok=True)
        return evidence.read(target)


def _default_server_name() -> str:
    """mailsrv with its version and, where this is a repository, the last commit that changed it."""
    try:
        number = version("mailsrv")
    except PackageNotFoundError:
        return "mailsrv"
    command = ["git", "-C", str(HERE), "log", "-1", "--format=%h", "--", ":/mailsrv"]
    commit = subprocess.run(command, text=True, capture_output=True, check=False).stdout.strip()
    return f"mailsrv {number} ({commit})" if commit else f"mailsrv {number}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python captures/record", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="recipes; none: say which there are"
    )
    parser.add_argument("--all", action="store_true", help="record every recipe")
    parser.add_argument(
        "--server",
        default=DEFAULT_SERVER,
        metavar="COMMAND",
        help="server under test, {listen} is its HOST:PORT, {config} the file of its settings"
        " (default: mailsrv)",
    )
    parser.add_argument("--server-name", default=_default_server_name(), metavar="TEXT")
    parser.add_argument("--output", type=Path, default=HERE.parent, metavar="DIR")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("/var/cache/captures-record"),
        metavar="DIR",
        help="where installed senders are kept",
    )
    wanted = parser.parse_args()
    chosen = names() if wanted.all else wanted.names
    if not chosen:
        for name in names():
            print(f"{name:20} {load(name).story}")
        return 0
    if os.geteuid():
        parser.error("recording needs root: for namespaces, overlays and tcpdump")
    recorder = Recorder(wanted)
    failed = []
    for name in chosen:
        try:
            recorder.record(load(name))
        except (RecipeError, stage.StageError, take.TakeError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        print(f"not recorded: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
