"""An envelope comes back from the spool as it went in, whatever a client put there."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooling import envelope

from mailsrv.delivery.spool.stored_envelope import from_json, to_json
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath

PATHS = st.builds(MailPath, st.text(), st.text())
NOTIFIES = st.sampled_from([(), ("NEVER",), ("SUCCESS", "FAILURE"), ("DELAY",)])
ENVELOPES = st.builds(
    Envelope,
    client=st.text(),
    helo=st.text(),
    protocol=st.text(),
    id=st.text(),
    reverse_path=PATHS,
    forward_paths=st.lists(PATHS, max_size=3),
    size_declared_octets=st.none() | st.integers(0, 1 << 62),
    body=st.text(),
    smtputf8=st.booleans(),
    tls=st.text(),
    refused=st.integers(0, 1000),
    ret=st.text(),
    envid=st.text(),
    notices=st.dictionaries(st.integers(0, 1000), st.builds(Notice, NOTIFIES, st.text())),
)


@settings(deadline=None)
@given(ENVELOPES)
def test_every_field_comes_back(one: Envelope) -> None:
    text = to_json(one)
    assert text.isascii()
    back = from_json(text)
    assert back == one
    assert all(type(path) is MailPath for path in (back.reverse_path, *back.forward_paths))


def test_no_field_is_left_to_chance_but_the_instant_of_a_clock_that_restarts() -> None:
    names = {one.name for one in dataclasses.fields(Envelope)} - {"began_ns"}
    assert names == set(to_json(envelope()).replace('"', " ").split()) & names


@pytest.mark.parametrize("text", ["", "5", "null", "{}", "[]", '{"reverse_path": 5}', "\0"])
def test_what_is_no_envelope_is_an_error_of_one_kind(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)
