"""Which clients are one sender, and which reverse-paths one mailbox: what a greylist compares.

Large senders try again from another address of a *pool*.  Two addresses are of one pool if they
share a wide network; or the organisation in their confirmed reverse names; or, where a client has
no confirmed reverse name, the organisation in their HELO names.

The first two are facts that a client cannot invent.  The third is only claimed, so it is believed
only if it is also the organisation of the reverse-path: a pool without reverse names is a sender's
own, not a service that sends for others, and a forger must then forge the same name in
both places, where the checks of sender domain and HELO name look.
"""

from __future__ import annotations

import ipaddress
import re

from mailsrv.policy.networks import client_network

WIDE_IPV4_BITS = 16
"""The pools of large senders fill blocks of this size; a /24 is one rack of them."""
WIDE_IPV6_BITS = 32
"""The smallest block that a registry allocates to a provider: what a /16 is among IPv4 networks."""

_KINDS = """
    ac ad asso co com ed edu gen go gob gouv gov gr gv ind info k12 lg ltd me mil ne net nhs nom
    or org plc sch web
"""
_SECOND_LEVEL = frozenset(_KINDS.split())
"""Labels below which a country's registry registers names: example.co.uk, example.com.au.  The
usual ones: a missing one makes neighbours of those who share it, which costs little."""

_NUMBER = re.compile(r"[0-9]++")
_WORD = re.compile(
    r"(?<![0-9a-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-z])|[0-9a-z]++"
)
"""A UUID, or a word of letters and digits in lower case."""
_HEX = re.compile(r"[0-9a-f]{4,}+")
_MARKS = re.compile(r"#(?:[^#0-9a-z]*+(?:#|[0-9a-f]{4,}+(?![0-9a-z])))++")
"""Serial numbers side by side, with words between them that may be parts of one in hexadecimal."""
_FIGURES = re.compile(r"[0-9]{4,}+")
FIGURES_MIN = 4
"""Of a number among two words: room-1 and room-2 are two mailboxes."""
WORDS_OF_A_COUNTER = 3
"""In a local-part of so many words any number counts messages, as in list-57-bob."""
SERIAL_LETTERS_MIN = 8
"""A word of so many letters and digits, two of them digits, is a random one among several words."""
LONE_SERIAL_LETTERS_MIN = 20
"""A word that is the whole local-part is a serial number from here on, with four digits in it."""
_PRVS = re.compile(r"prvs=(?:[0-9a-f]{10}=(.++)|([^/]++)/[0-9a-f]{10})")
# Sender Rewriting Scheme: SRS0=hash=day=domain=local, SRS1=hash=domain==hash=day=domain=local.
# The first separator is "=", "+" or "-".
_SRS = re.compile(r"srs(?:0[=+-]|1[=+-][^=]++=([^=]++)=[=+-])[^=]++=[^=]++=(.++)")


# -- clients --------------------------------------------------------------------------------------


def wide_network(client: str) -> str:
    """The /16 or /32 of ``client``, an address as text; a text that is none is its own."""
    return client_network(client, WIDE_IPV4_BITS, WIDE_IPV6_BITS)


def organisation(name: str) -> str:
    """The registered domain that ``name`` lies in, in lower case; "" if there is none.

    Told by its form, without a list of the world's registries: the last two labels, or three
    where the second stands for a kind (example.co.uk).
    """
    labels = name.lower().removesuffix(".").split(".")
    if len(labels) < 2 or not all(labels) or labels[-1].isdigit() or labels[-1].endswith("]"):
        return ""
    if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL:
        return ".".join(labels[-3:]) if len(labels) > 2 else ""
    return ".".join(labels[-2:])


def spells_address(name: str, client: str) -> bool:
    """Whether the reverse name of an IPv4 client is made of its address, in figures or in hex.

    A provider calls its customers' lines so: they share its name, and nothing else.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return False
        address = address.ipv4_mapped
    octets = list(address.packed)
    numbers = [int(number) for number in _NUMBER.findall(name) if len(number) <= 3]
    for start in range(len(numbers) - 3):
        if numbers[start : start + 4] in (octets, octets[::-1]):
            return True
    decimal = "".join([f"{octet:03}" for octet in octets])
    return decimal in name or address.packed.hex() in name.lower()


def named_pool(client: str, reverse_name: str) -> str:
    """The pool that a confirmed reverse name tells of; "" if none.  As ``*.example.org``."""
    domain = organisation(reverse_name)
    return f"*.{domain}" if domain and not spells_address(reverse_name, client) else ""


def claimed_pool(client: str, helo: str, reverse_path: str, forward_path: str) -> str:
    """The pool that the HELO name claims, if it is to be believed; else "".

    From outside, only forgers send in the name of the recipient's own organisation.
    """
    domain = organisation(helo)
    if not domain or domain != _organisation_of(reverse_path):
        return ""
    if domain == _organisation_of(forward_path) or spells_address(helo, client):
        return ""
    return f"helo *.{domain}"


def _organisation_of(path: str) -> str:
    return organisation(path.rpartition("@")[2])


# -- mailboxes ------------------------------------------------------------------------------------


def plain_sender(reverse_path: str) -> str:
    """What stays the same in the reverse-paths of one sender, in small letters.

    A retry repeats its reverse-path, but the next message of the same list or forwarder bears
    another (VERP, SRS, BATV), and the tags of the last two change from day to day, some of them
    between tries.  So tags and subaddresses go, and a serial number counts as any other: cloud
    mailers make one for each message or try, of counters, hexadecimal, UUIDs or random letters and
    digits, in any mix.  A number that is the whole name stays, unless it is longer than people's.

    To take two senders for one costs little: what the greylist compares is the client's pool and
    the recipient as well.
    """
    local, at, domain = reverse_path.lower().rpartition("@")
    if local.startswith("prvs=") and (tagged := _PRVS.fullmatch(local)):
        local = tagged[1] or tagged[2]
    if local.startswith("srs") and (rewritten := _SRS.fullmatch(local)):
        local = f"srs={rewritten[1] or ''}={rewritten[2]}"
    else:
        local = local.partition("+")[0] or local
    return _without_serials(local) + at + domain


def _without_serials(local: str) -> str:
    if local.isalnum():
        digits = sum(map(str.isdigit, local))
        return "#" if len(local) >= LONE_SERIAL_LETTERS_MIN and digits >= 4 else local
    short_counts = len(_WORD.findall(local)) >= WORDS_OF_A_COUNTER
    marked = _WORD.sub(lambda one: "#" if _is_serial(one[0], short_counts) else one[0], local)
    return _FIGURES.sub("#", _MARKS.sub("#", marked))


def _is_serial(word: str, short_counts: bool) -> bool:
    """Whether a word among several is a serial number: figures alone, hexadecimal with a figure in
    it, or a random word."""
    digits = sum(map(str.isdigit, word))
    if not digits:
        return False
    return (
        "-" in word
        or (digits == len(word) and (short_counts or digits >= FIGURES_MIN))
        or _HEX.fullmatch(word) is not None
        or (len(word) >= SERIAL_LETTERS_MIN and digits >= 2)
    )
