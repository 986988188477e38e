"""Finds the addresses of a next hop: of hosts that are configured, or of a domain through its MX.

Theory of operation.  A domain's MX records name its hosts (``mail_exchangers``); without any, the
domain itself is the host (RFC 5321 section 5.1).  Where we are among the hosts, only those that are
preferred to us remain, or the mail would come back.  Then the A and AAAA records of all hosts are
asked for side by side, and the addresses are put in order.  A lookup that fails spoils the search
only if nothing else led to an address: then the mail waits, since it may work later.

Everything is bounded: the hosts, the addresses of each and of all, the lookups under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from mailsrv.config.deliveries import RELAY_PORT, Host
from mailsrv.delivery.next_hop.addresses import (
    ADDRESSES_MAX,
    Address,
    Unroutable,
    is_allowed,
    literal_of,
    ordered,
    parse_ip,
    read_ips,
)
from mailsrv.delivery.next_hop.mail_exchangers import (
    HOSTS_MAX,
    MailExchanger,
    better_than_ours,
    in_order,
    is_null,
    read_mx,
)
from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Resolver
from mailsrv.policy.networks import Networks
from mailsrv.smtp.path import is_domain
from mailsrv.smtp.sending.outcome import OutcomeKind

FAMILIES = ("AAAA", "A")

Found = tuple[Address, ...] | Unroutable
Answer = Callable[[Found], None]


@dataclass(frozen=True, slots=True)
class LookupRules:
    """Where a domain's MX records must not lead, and where they may.

    ``own_names``, in lower case, and ``own_ips`` are this server's; ``allowed`` are the networks
    with private addresses that may be used all the same.
    """

    own_names: frozenset[str] = frozenset()
    own_ips: frozenset[str] = frozenset()
    allowed: Networks = Networks(())  # noqa: RUF009 - immutable


def find_hosts(hosts: Sequence[Host], resolver: Resolver, random: Random, answer: Answer) -> None:
    """Call ``answer`` once with the addresses of the configured ``hosts``, in their order."""
    _Search(resolver, random, answer).find(hosts)


def find_domain(
    domain: str, resolver: Resolver, random: Random, rules: LookupRules, answer: Answer
) -> None:
    """Call ``answer`` once with the addresses that take mail for ``domain``: a name or an address
    literal."""
    _DomainSearch(domain, resolver, random, rules, answer).begin()


def deferred(status: str, diagnostic: str) -> Unroutable:
    """It may be found later."""
    return Unroutable(OutcomeKind.DEFERRED, status, diagnostic)


def failed(status: str, diagnostic: str) -> Unroutable:
    """It will not be found."""
    return Unroutable(OutcomeKind.FAILED, status, diagnostic)


class _Search:
    """Looks up the addresses of some hosts."""

    __slots__ = ("_answer", "_hosts", "_ips", "_left", "_random", "_resolver", "_trouble")

    def __init__(self, resolver: Resolver, random: Random, answer: Answer) -> None:
        self._resolver = resolver
        self._random = random
        self._answer = answer
        self._hosts: Sequence[Host] = ()
        self._ips: dict[tuple[str, str], list[str]] = {}  # by name and record type
        self._left = 0
        self._trouble = ""

    def find(self, hosts: Sequence[Host]) -> None:
        """Ask for all of them."""
        self._hosts = hosts
        names = dict.fromkeys(host.name for host in self._hosts if parse_ip(host.name) is None)
        self._left = len(names) * len(FAMILIES) + 1
        for name in names:
            for rtype in FAMILIES:
                self._resolver.lookup(name, rtype, partial(self._found, name, rtype))
        self._one_is_done()

    def _found(self, name: str, rtype: str, answer: DnsAnswer) -> None:
        self._ips[name, rtype] = read_ips(answer.records)
        if answer.status not in (DnsStatus.NOERROR, DnsStatus.NXDOMAIN):
            self._trouble = self._trouble or f"{name}: {rtype} lookup failed ({answer.status})"
        self._one_is_done()

    def _one_is_done(self) -> None:
        self._left -= 1
        if not self._left:
            self._answer(self._conclude())

    def _conclude(self) -> Found:
        found = self._addresses()
        if found:
            return tuple(found[:ADDRESSES_MAX])
        if self._trouble:
            return deferred("4.4.3", self._trouble)
        # Configured by this server's operator, who will put it right: nothing is returned for it.
        return deferred("4.4.4", f"{self._hosts[0].name}: the host has no address")

    def _addresses(self) -> list[Address]:
        """All that were found, in the order in which they are tried."""
        found: dict[tuple[str, int], Address] = {}
        for host in self._hosts:
            for address in self._addresses_of(host):
                found.setdefault((address.ip, address.port), address)
        return list(found.values())

    def _addresses_of(self, host: Host) -> list[Address]:
        ip = parse_ip(host.name)
        if ip is not None:
            return [Address(str(ip), host.port, host.name)]
        v6, v4 = (self._ips.get((host.name, rtype), []) for rtype in FAMILIES)
        return [Address(ip, host.port, host.name) for ip in ordered(v6, v4, self._random)]


class _DomainSearch(_Search):
    """Looks up who takes mail for a domain."""

    __slots__ = ("_domain", "_exchangers", "_implicit", "_rules")

    def __init__(
        self, domain: str, resolver: Resolver, random: Random, rules: LookupRules, answer: Answer
    ) -> None:
        super().__init__(resolver, random, answer)
        self._domain = domain
        self._rules = rules
        self._exchangers: list[MailExchanger] = []
        self._implicit = False

    def begin(self) -> None:
        """Ask for the MX records, where there is anything to ask."""
        literal = literal_of(self._domain)
        if literal is not None:
            self._exchangers = [MailExchanger(0, str(literal))]
            self.find([Host(str(literal), RELAY_PORT)])
        elif is_domain(self._domain):
            self._resolver.lookup(self._domain, "MX", self._exchangers_found)
        else:
            self._answer(failed("5.1.2", f"{self._domain or 'no domain'}: no domain to deliver to"))

    def _exchangers_found(self, answer: DnsAnswer) -> None:
        domain = self._domain
        if answer.status is DnsStatus.NXDOMAIN:
            self._answer(failed("5.1.2", f"{domain}: the domain does not exist"))
        elif answer.status is not DnsStatus.NOERROR:
            self._answer(deferred("4.4.3", f"{domain}: MX lookup failed ({answer.status})"))
        elif is_null(answer.records):
            self._answer(failed("5.1.10", f"{domain}: the domain takes no mail (null MX)"))
        elif not answer.records:
            self._implicit = True
            self._find_exchangers([MailExchanger(0, domain.lower())])
        elif exchangers := read_mx(answer.records):
            self._find_exchangers(exchangers)
        else:
            self._answer(failed("5.4.4", f"{domain}: its MX records name no host"))

    def _find_exchangers(self, exchangers: list[MailExchanger]) -> None:
        kept = better_than_ours(exchangers, self._rules.own_names)
        if not kept:
            self._answer(self._loop())
            return
        self._exchangers = in_order(kept, self._random)[:HOSTS_MAX]
        self.find([Host(one.name, RELAY_PORT) for one in self._exchangers])

    def _conclude(self) -> Found:
        """Without addresses that must not be used: ours and those of worse hosts, private ones."""
        found = self._addresses()
        ours = {address.name for address in found if address.ip in self._rules.own_ips}
        kept = {one.name for one in better_than_ours(self._exchangers, ours)}
        if not kept:
            return self._loop()
        found = [address for address in found if address.name in kept]
        allowed = [address for address in found if is_allowed(address.ip, self._rules.allowed)]
        if allowed:
            return tuple(allowed[:ADDRESSES_MAX])
        if self._trouble:
            return deferred("4.4.3", self._trouble)
        if found:
            return failed("5.4.4", f"{self._domain}: its mail hosts have no public address")
        if self._implicit:
            return failed("5.1.2", f"{self._domain}: the domain has neither MX nor address")
        return failed("5.4.4", f"{self._domain}: its mail hosts have no address")

    def _loop(self) -> Unroutable:
        return failed("5.4.6", f"{self._domain}: mail for it would come back to this server")
