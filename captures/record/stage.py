"""Stages: Debian roots in which senders are installed, one layer of packages over a clean base.

Mail servers exclude one another as packages, and none of them belongs on the machine of whoever
records.  So the base is made once by debootstrap, each set of packages is installed into an
overlay of its own over it, and each take mounts another, thrown away, on top.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from recipe import HERE, Recipe

SUITE = "bookworm"
CLIENT_HOST = "client.example"
SERVER_HOST = "mx.example.test"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/ann",
    "USER": "ann",
    "LOGNAME": "ann",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
}


class StageError(RuntimeError):
    """A stage could not be made."""


def run(command: Sequence[str], *, stdin: str | None = None) -> str:
    """Run to the end and return the standard output; raises StageError with what it said."""
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise StageError(f"{' '.join(command)}: exit status {done.returncode}\n{said}")
    return done.stdout


def inside(root: Path, shell: str) -> list[str]:
    """The command that runs ``shell`` in ``root``, on a machine called ``CLIENT_HOST``."""
    environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    script = f"hostname {CLIENT_HOST}\ncd /home/ann\n{shell}"
    return ["unshare", "--uts", "env", "-i", *environment, "chroot", str(root), "sh", "-ec", script]


def base(cache: Path) -> Path:
    """The clean Debian under every stage; made at the first call."""
    root = cache / "base"
    if root.exists():
        return root
    making = cache / "base.new"
    shutil.rmtree(making, ignore_errors=True)
    making.parent.mkdir(parents=True, exist_ok=True)
    run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(making)])
    run(["chroot", str(making), "useradd", "--create-home", "--comment", "Ann Example", "ann"])
    # Some packages ask for the machine's name while they are installed.
    (making / "etc/hosts").write_text(f"127.0.0.1 localhost {CLIENT_HOST}\n", encoding="ascii")
    # Daemons are started by recipes alone, never by their packages.
    policy = making / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    return making.rename(root)


def stage(recipe: Recipe, cache: Path) -> list[Path]:
    """The layers, topmost first, in which the packages of ``recipe`` are installed."""
    bottom = base(cache)
    if not recipe.packages and not recipe.npm:
        return [bottom]
    wanted = " ".join((*sorted(recipe.packages), *recipe.npm))
    folder = cache / "stages" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    layer = folder / "layer"
    if not layer.exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("new", "work", "root"):
            (folder / name).mkdir(parents=True)
        (folder / "packages").write_text(wanted + "\n", encoding="utf-8")
        _install(recipe, bottom, folder)
        (folder / "new").rename(layer)
    return [layer, bottom]


def _install(recipe: Recipe, bottom: Path, folder: Path) -> None:
    """Install into ``folder``/new.  The mounts live and die with one shell's namespace."""
    root = folder / "root"
    install = "apt-get -q update && apt-get -qy install --no-install-recommends"
    if recipe.debconf:
        answers = "\n".join(recipe.debconf)
        install = f"debconf-set-selections <<'END'\n{answers}\nEND\n{install}"
    steps = [
        overlay([bottom], folder / "new", folder / "work", root),
        *mounts(root),
        shlex.join(inside(root, f"{install} {' '.join(recipe.packages)}")),
    ]
    if recipe.npm:
        install = f"npm install --silent --no-package-lock --prefix {root / 'opt/npm'}"
        steps.append(f"{install} {' '.join(recipe.npm)}")
    shell = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e"]
    run(shell, stdin="\n".join(steps))


def overlay(layers: Sequence[Path], upper: Path, work: Path, root: Path) -> str:
    """The mount command that stacks ``layers`` under ``upper`` at ``root``."""
    lower = ":".join(str(layer) for layer in layers)
    return f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {root}"


def mounts(root: Path) -> list[str]:
    """The mount commands without which programs do not run in ``root``."""
    return [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]


def version(recipe: Recipe, layers: Sequence[Path]) -> tuple[str, str]:
    """What is installed: the bare version, and package and version as their archive has them."""
    if recipe.npm:
        name = recipe.npm[0].split("@")[0]
        manifest = layers[0] / "opt/npm/node_modules" / name / "package.json"
        bare = str(json.loads(manifest.read_text(encoding="utf-8"))["version"])
        return bare, f"{name} {bare} (npm)"
    lists = (layer / "var/lib/dpkg/status" for layer in layers)
    status = next(path for path in lists if path.exists()).read_text(encoding="utf-8")
    for paragraph in status.split("\n\n"):
        entry = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
        if entry.get("Package") == recipe.packages[0]:
            full = entry["Version"]
            upstream = re.split(r"[+~]", full.split(":")[-1].rsplit("-", 1)[0])[0]
            return upstream, f"{recipe.packages[0]} {full} (Debian)"
    raise StageError(f"{recipe.packages[0]} is not installed")


def furnish(recipe: Recipe, root: Path) -> None:
    """Put the recipe's files and the few that name machines into ``root``."""
    shutil.copytree(HERE / "files", root / "opt/record", dirs_exist_ok=True)
    files = {
        "/etc/hosts": f"127.0.0.1 localhost {CLIENT_HOST}\n{recipe.server_address} {SERVER_HOST}\n",
        "/etc/resolv.conf": "nameserver 127.0.0.1\noptions attempts:1\n",
        "/etc/hostname": f"{CLIENT_HOST}\n",
        "/etc/mailname": f"{CLIENT_HOST}\n",
        **recipe.files,
    }
    for name, content in files.items():
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(content, encoding="utf-8")
