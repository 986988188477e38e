"""An envelope as JSON: all that the conversation agreed on, kept beside the content."""

from __future__ import annotations

import dataclasses
import json

from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath

_KEPT = tuple(one.name for one in dataclasses.fields(Envelope) if one.name != "began_ns")
"""All fields but the instant of a clock that a restart sets back."""
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # ASCII, whatever a client sent


def to_json(envelope: Envelope) -> str:
    """``envelope`` as a JSON object; paths are pairs of local-part and domain."""
    return _ENCODER.encode({name: getattr(envelope, name) for name in _KEPT})


def from_json(text: str) -> Envelope:
    """What ``to_json`` made ``text`` of.  Raises ValueError if it is nothing like that."""
    try:
        table = json.loads(text)
        table["reverse_path"] = MailPath(*table["reverse_path"])
        table["forward_paths"] = [MailPath(*path) for path in table["forward_paths"]]
        table["notices"] = {
            int(place): Notice(tuple(notify), orcpt)
            for place, (notify, orcpt) in table["notices"].items()
        }
        table["expanded"] = tuple(table.get("expanded", ()))
        return Envelope(**table)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no envelope: {error}") from None
