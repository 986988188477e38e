"""A server as a process: in what order it starts, what signals mean, and how it ends.

To start: bind, read the key, give up root, open the files that we write (they then belong to the
account that we run as, and can be opened again), and only then report that we are ready.

SIGHUP reads the configuration anew, between the events of mail: the log is opened anew; new
sockets are bound, the certificate and the recipient table read; if all of that succeeds, new
connections are served by it, open ones keep what they had, and sockets that are no longer
configured are closed.  If anything of it fails, everything stays as it was, and the log says why;
so it is if the file no longer names what mail depends on, as one does that is being written.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mailsrv import __version__
from mailsrv.config.deliveries import Discard, ToMaildir
from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config
from mailsrv.config.reload import back_to_default, dropped
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.backends import Backends, Steps, certificate_of, import_what_is_needed
from mailsrv.daemon.listen_sockets import ListenSockets, OpenListener, SocketChange, SocketKind
from mailsrv.daemon.privileges import EXPOSED_ROOT, PrivilegeError, become, identity
from mailsrv.daemon.systemd import ActivationError, Environment, Notifier, listening_sockets
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.poll import SystemPoll
from mailsrv.runtime.signals import SignalReader
from mailsrv.server import Server, ServerBackends
from mailsrv.telemetry.event_log import EventLog
from mailsrv.telemetry.log_file import LogFile
from mailsrv.telemetry.metrics import Metrics
from mailsrv.telemetry.metrics_http import MetricsServer
from mailsrv.telemetry.process_metrics import read_process_gauges
from mailsrv.transport.transport import TransportTap
from mailsrv.units import NS_PER_MS

KEPT_KEYS = ("user", "group", "greylist_database")
"""What a reload cannot change."""
STEP_NS = NS_PER_MS
"""Between two steps of a reload: time for mail."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says: how to read the configuration, and the file it is in.
    Without a file there is nothing to reload: SIGHUP stops the server as it stops any program."""

    read: Callable[[], Config]
    file: Path | None


def serve(
    options: ServeOptions, clock: Clock, environment: Environment, tap: TransportTap | None = None
) -> int:
    """Serve until a signal ends it; returns the exit status.  ``tap`` watches the connections.

    Raises ConfigError.
    """
    config = options.read()
    service = Service(options, clock, environment, tap)
    service.start(config)
    service.run()
    return 0


class LogOutput:
    """Where the journal's text goes: standard error, or a file that a reload may exchange."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._file: LogFile | None = None
        self.on_recovery: Callable[[int], object] = lambda lost: None
        """Called with the number of lines that are missing, once lines are written again."""

    def write(self, text: str) -> None:
        """Write whole lines.  Raises OSError."""
        if self._file is not None:
            self._file.write(text)
        elif sys.stderr is not None:  # None: closed
            sys.stderr.write(text)

    def open(self, path: Path | None) -> LogFile | None:
        """The file ``path``; None for standard error.  Raises ConfigError."""
        if path is None:
            return None
        if self._file is not None and self._file.path == path:
            return self._file
        try:
            return LogFile(path, self._clock, partial(self._note_failure, path))
        except OSError as error:
            raise ConfigError(f"log_file: {path}: {error.strerror}") from None

    def use(self, file: LogFile | None) -> None:
        """Write to what ``open`` returned from now on."""
        if self._file is not None and self._file is not file:
            self._file.close()
        self._file = file

    def discard(self, file: LogFile | None) -> None:
        """Close what ``open`` returned, unless it is in use."""
        if file is not None and file is not self._file:
            file.close()

    def reopen(self) -> None:
        """Open the file anew, wherever its path leads now."""
        if self._file is not None:
            self._file.reopen()

    @property
    def lost(self) -> int | None:
        """Lines that could not be written, ever; None without a file."""
        return None if self._file is None else self._file.lost

    def _note_failure(self, path: Path, error: OSError | None, lost: int) -> None:
        if error is not None:
            warn(f"log_file: {path}: {error.strerror}; mail goes on")
        else:
            warn(f"log_file: {path}: works again, {lost} lines are missing")
            self.on_recovery(lost)


class Service:
    """One process's server; ``start``, then ``run``."""

    def __init__(
        self,
        options: ServeOptions,
        clock: Clock,
        environment: Environment,
        tap: TransportTap | None = None,
    ) -> None:
        self._options = options
        self._tap = tap
        self._clock = clock
        self._environment = environment
        self._metrics = Metrics()
        self._log = LogOutput(clock)
        self._journal = EventLog(clock, self._log.write, metrics=self._metrics)
        self._backends = Backends(clock, self._journal, self._metrics, _descriptor_budget())
        self._reload: Generator[None, None, None] | None = None
        self._reload_again = False
        self._stops = 0

    def start(self, config: Config) -> None:
        """Do everything that can fail, in the order of the module's first lines."""
        try:
            inherited = listening_sockets(self._environment)
        except ActivationError as error:
            raise ConfigError(f"socket activation: {error}") from None
        self._notifier = Notifier.of(self._environment)
        self._sockets = ListenSockets(self._serve_socket, inherited)
        change = self._sockets.prepare(config)
        tls = certificate_of(config)
        import_what_is_needed(config)  # the user may be unable to read where we are installed
        _drop_privileges(config)
        self._log.use(self._log.open(config.log_file))
        self._log.on_recovery = lambda lost: self._journal.note("log works again", lost=lost)
        self._journal.reform("json" if config.log_format == "json" else "text")
        backends = _all_steps(self._backends.steps(config, tls))
        self._server = Server(
            config.settings,
            backends,
            clock=self._clock,
            poll=SystemPoll(self._clock),
            random=random.Random(),  # seeded by the system; an id need not be secret
            event_log=self._journal,
            tap=self._tap,
            memory=self._backends.memory,
            descriptors=self._backends.descriptors,
        )
        self._backends.attach(self._server.loop)
        self._config = config
        self._read_gauges()
        # Before the first line: whoever reads it may send a signal at once.
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._signals = SignalReader(self._server.loop.poll, numbers, self._signalled)
        self._open(change)
        self._say_where_mail_goes(config)
        self._note_what_cannot_be_read_again(config)

    def run(self) -> None:
        """Serve until a signal ends it."""
        server = self._server
        self._journal.note("started", version=__version__, hostname=self._config.settings.hostname)
        self._journal.flush()  # what was logged at start; the first pass may be far off
        self._notifier.ready(self._status())
        self._notifier.watch(server.loop)
        gc.freeze()  # modules and settings stay: no collection need look at them again
        server.run()
        if self._reload is not None:
            self._reload.close()
        self._notifier.close()
        self._backends.close()
        self._sockets.close()
        self._signals.close()
        self._journal.note("stopped", connections=server.accepted)
        self._journal.flush()
        self._log.use(None)

    # -- sockets ----------------------------------------------------------------------------------

    def _open(self, change: SocketChange) -> None:
        for kind, listening in [*self._sockets.open_inherited(), *self._sockets.open(change)]:
            endpoint = Endpoint(*listening.address)
            if kind is SocketKind.METRICS:
                say(f"metrics at http://{endpoint}/metrics")
            else:
                say(f"listening on {endpoint}{' with TLS' if kind is SocketKind.SMTPS else ''}")

    def _serve_socket(self, kind: SocketKind, sock: socket.socket) -> OpenListener:
        if kind is SocketKind.METRICS:
            return MetricsServer(
                self._server.loop, sock, self._metrics.page, lambda: self._stops == 0
            )
        return self._server.listen(sock, implicit_tls=kind is SocketKind.SMTPS)

    # -- signals ----------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP and self._options.file is not None:
            self._log.reopen()
            if not self._stops:
                self._begin_reload()
            return
        self._stops += 1
        self._journal.note("stopping", signal=signal.Signals(number).name)
        if self._stops == 1:
            self._notifier.stopping("finishing what is under way")
            self._server.stop()
        else:
            self._server.end_all()
            self._backends.hurry()

    def _begin_reload(self) -> None:
        if self._reload is not None:
            self._reload_again = True  # what is being read may be older than the signal
            return
        self._notifier.reloading(self._clock.monotonic_ns())
        self._reload = self._reload_steps()
        self._go_on_reloading()

    def _go_on_reloading(self) -> None:
        """Take a step of the reload; the next one follows after other work of the loop."""
        if self._reload is None or self._stops:
            return
        try:
            next(self._reload)
        except StopIteration:
            pass
        except ConfigError as error:
            for complaint in error.complaints:
                self._journal.note("reload refused", why=complaint)
        except BaseException:
            self._reload = None
            raise
        else:
            loop = self._server.loop
            loop.timers.schedule(loop.now_ns + STEP_NS, self._go_on_reloading)
            return
        self._reload = None
        self._notifier.ready(self._status())
        if self._reload_again:
            self._reload_again = False
            self._begin_reload()

    def _reload_steps(self) -> Generator[None, None, None]:
        """Raises ConfigError, and then leaves everything as it was."""
        config = self._options.read()
        if complaints := dropped(self._config, config):
            raise ConfigError(*complaints)
        with contextlib.ExitStack() as undoing:
            change = self._sockets.prepare(config)
            undoing.callback(change.discard)
            file = self._log.open(config.log_file)
            undoing.callback(self._log.discard, file)
            tls = certificate_of(config)
            backends = yield from self._backends.steps(config, tls)
            undoing.pop_all()
        self._log.use(file)
        self._journal.reform("json" if config.log_format == "json" else "text")
        self._server.reload(config.settings, backends)
        for kind, listening in self._sockets.open(change):
            host, port = listening.address
            self._journal.note("listening", kind=kind.value, host=host, port=port)
        for place in change.closed:
            self._journal.note("no longer listening", kind=place.kind.value, at=place.endpoint)
        old, self._config = self._config, config
        kept = [key for key in KEPT_KEYS if getattr(old, key) != getattr(config, key)]
        self._journal.note(
            "reloaded",
            needs_restart=", ".join(kept) or None,
            back_to_default=", ".join(back_to_default(old, config)) or None,
        )

    # -- what people are told ---------------------------------------------------------------------

    def _status(self) -> str:
        return f"serving as {self._config.settings.hostname}"

    def _say_where_mail_goes(self, config: Config) -> None:
        match config.delivery:
            case Discard():
                say("accepted mail is thrown away (delivery: discard)")
            case ToMaildir(path=path):
                say(f"mail goes to the Maildir {path.resolve()}")
            case delivery:
                say(f"mail goes on (delivery: {delivery})")
        if config.routes:
            say(f"or by one of {len(config.routes):,} routes")
        if config.spool_folder is not None:
            say(f"the spool is {config.spool_folder.resolve()}")

    def _note_what_cannot_be_read_again(self, config: Config) -> None:
        """A renewed certificate that only root can read would be noticed when it is too late."""
        files = [self._options.file, *(config.tls_files or ())]
        for path in dict.fromkeys(files):
            if path is not None and not os.access(path, os.R_OK):
                self._journal.note("reload will fail", file=path, why="cannot be read any more")

    def _read_gauges(self) -> None:
        server, read = self._server, self._metrics.read
        read("mailsrv_connections", "Connections that are open.", lambda: len(server.connections))
        read(
            "mailsrv_connections_accepted_total",
            "Connections, since the server began.",
            lambda: server.accepted,
            kind="counter",
        )
        read(
            "mailsrv_log_lost_lines_total",
            "Lines that could not be written to the log.",
            lambda: self._log.lost,
            kind="counter",
        )
        read_process_gauges(self._metrics, self._clock)


def _descriptor_budget() -> DescriptorBudget | None:
    """That of this process; None where it has no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else DescriptorBudget(soft)


def _all_steps(steps: Steps) -> ServerBackends:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            backends: ServerBackends = stop.value
            return backends


def _drop_privileges(config: Config) -> None:
    try:
        account = identity(config.user, config.group)
        if account is not None:
            become(account)
    except PrivilegeError as error:
        raise ConfigError(str(error)) from None
    if os.geteuid() == 0 and any(one.is_public for one in config.listeners):
        warn(EXPOSED_ROOT)


def say(text: str) -> None:
    """A line on standard output.  Raises ConfigError if it cannot be written."""
    try:
        print(f"mailsrv: {text}", flush=True)
    except OSError as error:
        raise ConfigError(f"cannot write to standard output: {error.strerror}") from None


def warn(text: str) -> None:
    """A line on standard error, if that is open."""
    with contextlib.suppress(OSError, ValueError):
        print(f"mailsrv: {text}", file=sys.stderr, flush=True)
