"""What a configuration file means, and whether a server could start with it."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path

from mailsrv.config import file as config
from mailsrv.config.deliveries import (
    Discard,
    Host,
    NextHop,
    ToExchangers,
    ToHosts,
    ToMaildir,
)
from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config
from mailsrv.config.routes import Route
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.dry_run import dry_run, probe
from mailsrv.policy.policy import needs_dns
from mailsrv.policy.recipients import (
    EVERY_DOMAIN,
    POSTMASTER,
    Directory,
    address_keys,
    domain_key,
    table_key,
)
from mailsrv.settings import Settings
from mailsrv.stores.recipient_file import RecipientFileError, load_table
from mailsrv.transport.tls_context import server_context

HANDSHAKE_STEPS_MAX = 20
LISTED_MAX = 50
"""Of the lines about routes, about aliases, and about those of them that are not used."""
LOOPBACK_HOSTNAME = "localhost"


def inspect(path: Path, *, ask_nameservers: bool = False) -> list[str]:
    """Lines that tell what a configuration file means.  Raises ConfigError with every complaint.

    ``ask_nameservers`` sends a question to each name server.
    """
    loaded = config.read(path)
    found = config.complaints(loaded)
    table: AbstractSet[str] | None = None
    if loaded.recipient_table is not None:
        try:
            table = load_table(loaded.recipient_table)
        except RecipientFileError as error:
            found += [f"recipient_table: {complaint}" for complaint in error.complaints]
    tried = dry_run(loaded, path)
    found += tried.complaints
    asked = loaded.nameservers() if ask_nameservers else ()
    found += probe(asked)
    if found:
        raise ConfigError(*(f"{path}: {complaint}" for complaint in found))
    doubts = [*_doubts(loaded, table), *_unused_aliases(loaded, path), *tried.doubts]
    return [
        f"{path}: good",
        *(f"  {line}" for line in _meaning(loaded, table)),
        *(f"  name server {Endpoint(host, port)} answers" for host, port in asked),
        *(f"  mind: {line}" for line in doubts),
    ]


# -- what it means --------------------------------------------------------------------------------


def _meaning(loaded: Config, table: AbstractSet[str] | None) -> Iterator[str]:
    settings = loaded.settings
    if loaded.listen:
        yield f"listens on {_joined(loaded.listen)}"
    if loaded.listen_tls:
        yield f"listens with TLS from the first octet on {_joined(loaded.listen_tls)}"
    if settings.proxy_networks:
        yield f"takes the client's address from proxies in {', '.join(settings.proxy_networks)}"
    if loaded.tls_certificate:
        yield f"offers STARTTLS with {loaded.tls_certificate}"
    domains = "every domain" if EVERY_DOMAIN in settings.domains else ", ".join(settings.domains)
    yield f"takes mail for {domains or 'every domain, on this machine only'}"
    if table is not None:
        yield f"knows who exists from {loaded.recipient_table}, entries: {len(table):,}"
    if settings.recipient_callout != "off":
        silence = f"{settings.recipient_callout}s a recipient on whom it does not answer"
        yield f"asks the next hop who exists, and {silence}"
    yield _delivers(loaded.routing.default)
    if loaded.routes:
        yield f"delivers by other routes, of addresses and domains: {len(loaded.routes):,}"
        routes = [(key, route) for key, route in loaded.routing.by_key.items()]
        yield from _first((f"  {key}: {_delivers(route)}" for key, route in routes), len(routes))
    others = loaded.routing.elsewhere
    if others is not None and others != loaded.routing.default:
        yield f"for other domains {_delivers(others)}"
    if loaded.aliases:
        yield f"knows aliases, addresses that stand for others: {len(loaded.aliases):,}"
        lines = (f"  {key}: {', '.join(map(str, to))}" for key, to in loaded.aliases.items())
        yield from _first(lines, len(loaded.aliases))
    if loaded.spool_folder is not None:
        yield f"spools it in {loaded.spool_folder.absolute()}"
    yield f"checks: {', '.join(_checks(settings)) or 'none'}"
    for zone, answers in _lists(settings).items():
        yield f"asks the list {zone}: {', '.join(answers)}"
    if settings.reputation_threshold:
        yield f"refuses a client from a score of {settings.reputation_threshold} on"
    if needs_dns(settings):
        servers = (Endpoint(host, port) for host, port in loaded.nameservers())
        yield f"asks DNS at {_joined(servers)}"
    yield f"logs {loaded.log_format} to {loaded.log_file or 'standard error'}"
    if loaded.metrics_listen:
        yield f"gives metrics at http://{loaded.metrics_listen}/metrics"
    if loaded.user:
        yield f"becomes {':'.join(filter(None, (loaded.user, loaded.group)))} once it listens"


def _delivers(route: Route) -> str:
    match route.delivery:
        case Discard():
            return "throws accepted mail away"
        case ToMaildir(path=path) as delivery:
            whose = "the Maildir" if delivery.is_shared else "a Maildir for each recipient,"
            return f"delivers to {whose} {path.absolute()}"
        case ToHosts(protocol=protocol, hosts=hosts):
            where = f"to {_joined(hosts)} by {protocol.upper()}"
        case ToExchangers(domain=domain):
            where = f"to the mail exchangers of {domain or 'the recipient'}"
    rate = f", messages a minute: {route.messages_per_min:,}" if route.messages_per_min else ""
    return f"relays {where}, TLS: {route.tls.value}, connections: {route.connections}{rate}"


def _first(lines: Iterable[str], number: int) -> Iterator[str]:
    """The first of ``number`` lines, and how many more there are."""
    yield from islice(lines, LISTED_MAX)
    if number > LISTED_MAX:
        yield f"  and {number - LISTED_MAX:,} more, as the file has them"


def _joined(endpoints: Iterable[Endpoint | Host]) -> str:
    return ", ".join(map(str, endpoints))


def _checks(settings: Settings) -> Iterator[str]:
    if settings.greet_wait_s:
        yield f"{settings.greet_wait_s:g} s of silence before the greeting"
    for name, mode, score in (
        ("sender domain", settings.sender_domain_check, settings.sender_domain_score),
        ("HELO name", settings.helo_check, settings.helo_score),
        ("reverse name", settings.reverse_name_check, settings.reverse_name_score),
    ):
        if mode != "off":
            yield f"{name} (score {score})" if mode == "score" else f"{name} (refuse)"
    if settings.greylist:
        yield f"greylist ({settings.greylist_delay_s:g} s)"


def _lists(settings: Settings) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for zone, answers, score in settings.dns_lists:
        lists.setdefault(zone, []).append(f"{answers} scores {score}")
    return lists


# -- what is possible, and probably not meant -----------------------------------------------------


def _doubts(loaded: Config, table: AbstractSet[str] | None) -> Iterator[str]:
    settings = loaded.settings
    public = any(one.is_public for one in loaded.listeners)
    if public and settings.hostname == LOOPBACK_HOSTNAME:
        yield f"hostname: {LOOPBACK_HOSTNAME} is no name to greet the internet with"
    if loaded.metrics_listen is not None and loaded.metrics_listen.is_public:
        yield f"metrics_listen: everybody who reaches {loaded.metrics_listen} can read them"
    threshold, reachable = settings.reputation_threshold, _score_max(settings)
    if threshold > reachable:
        yield f"reputation_threshold: all scores together make {reachable}, so nobody is refused"
    backscatter = isinstance(loaded.delivery, NextHop) and settings.recipient_callout == "off"
    if public and backscatter and table is None:
        yield (
            "delivery: what the next hop refuses is returned to senders who may be forged; set "
            "recipient_callout, or recipient_table"
        )
    directory = Directory.of(settings)
    strangers = sorted(entry for entry in table or () if not _is_ours(directory, entry))
    if strangers:
        yield (
            f"recipient_table: addresses in none of domains: {len(strangers):,}, such as "
            f"{strangers[0]}"
        )
    yield from _ghosts(loaded, table)
    yield from _spool_in_maildir(loaded)
    if loaded.tls_files is not None:
        doubt = certificate_doubt(*loaded.tls_files, settings.hostname)
        if doubt:
            yield f"tls_certificate: {doubt}"


def _ghosts(loaded: Config, table: AbstractSet[str] | None) -> Iterator[str]:
    """Members of aliases who should be ours and do not exist."""
    if table is None:
        return
    directory = Directory.of(loaded.settings, table | loaded.aliases.keys())
    for key, members in loaded.aliases.items():
        for member in members:
            if directory.is_ours(domain_key(member.domain)) and directory.check(member):
                yield f"aliases: {key}: {member} does not exist"
                return


def _spool_in_maildir(loaded: Config) -> Iterator[str]:
    """A reader of the Maildir would meet what is not mail, and the server remove what is none of
    its contents."""
    spool = loaded.spool_folder
    maildirs = [one.root for one in loaded.deliveries if isinstance(one, ToMaildir)]
    for maildir in dict.fromkeys(maildirs):
        if spool is not None and _overlap(spool, maildir):
            yield f"spool: {spool} and the Maildir {maildir} share a folder; takes one of its own"


def _overlap(one: Path, other: Path) -> bool:
    one, other = (Path(os.path.abspath(path)) for path in (one, other))
    return one.is_relative_to(other) or other.is_relative_to(one)


def _unused_aliases(loaded: Config, file: Path) -> Iterator[str]:
    """Aliases that no mail comes to: they are in none of domains, and members of no other."""
    directory, delimiter = Directory.of(loaded.settings), loaded.settings.recipient_delimiter
    if not loaded.settings.domains:
        return
    members = (member for each in loaded.aliases.values() for member in each)
    named = {
        f"{local}@{domain_key(member.domain)}"
        for member in members
        for local in address_keys(member.local, delimiter)
    }
    named.add(f"{POSTMASTER}@{domain_key(loaded.settings.hostname)}")  # RFC 5321 section 4.5.1
    unused = [key for key in loaded.aliases if key not in named and not _is_ours(directory, key)]
    lines = _lines_of_aliases(file) if unused else {}
    allowed = f'takes "user@{loaded.settings.domains[0]}", or "user" for each of domains'
    for key in unused[:LISTED_MAX]:
        where = f" (line {lines[key]})" if key in lines else ""
        yield f"aliases: {key!r}{where}: no mail comes for it, in none of domains; {allowed}"
    if (more := len(unused) - LISTED_MAX) > 0:
        yield f"aliases: {more:,} more of this kind"


def _lines_of_aliases(file: Path) -> dict[str, int]:
    """On which line each alias stands, as far as they are written plainly in their table."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("["):
            table = line.strip()
        written = line.partition("=")[0].strip().strip("\"'")
        with contextlib.suppress(ValueError):
            if table == "[aliases]":
                found.setdefault(table_key(written), number)
    return found


def _score_max(settings: Settings) -> int:
    modes: Iterable[tuple[str, int]] = (
        (settings.sender_domain_check, settings.sender_domain_score),
        (settings.helo_check, settings.helo_score),
        (settings.reverse_name_check, settings.reverse_name_score),
    )
    listed = sum(max(one.score, 0) for one in settings.dns_lists)
    return listed + sum(score for mode, score in modes if mode == "score")


def _is_ours(directory: Directory, entry: str) -> bool:
    _, at, domain = entry.rpartition("@")
    return not at or directory.is_ours(domain)


def certificate_doubt(certificate: Path, key: Path, hostname: str) -> str:
    """What a sender that verifies would say of a certificate that it trusts: that it has run out,
    or is for another name; "" if nothing."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(certificate)
    client_context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(downward, upward, server_hostname=hostname)
    server = server_context(certificate, key).wrap_bio(upward, downward, server_side=True)
    for end in (client, server) * HANDSHAKE_STEPS_MAX:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        if end is client:
            break
    return ""
