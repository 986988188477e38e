"""A check of a server as JUnit XML, for CI: a violation that is not known fails; what does not
apply, what could not be told and what is known is skipped, with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from mailsrv.units import NS_PER_S
from replay.report.check import Known
from replay.verify.check.known import is_new
from replay.verify.check.runner import Check, CheckResult
from replay.verify.check.verdict import Verdict, told

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(check: Check, results: Sequence[CheckResult], known: Known, real_ns: int) -> str:
    """The document.  ``real_ns`` is how long the check took: less than its scenarios together,
    which are played side by side."""
    suite = ET.Element("testsuite", name=_text(f"replay check {check.target.name}"))
    for result in results:
        suite.append(_case(result, known))
    if check.ended:
        case = ET.SubElement(suite, "testcase", classname="replay", name="the target")
        ET.SubElement(case, "error", message=_text(check.ended))
    for name, tag in (("tests", "testcase"), ("failures", ".//failure"), ("skipped", ".//skipped")):
        suite.set(name, str(len(suite.findall(tag))))
    suite.set("errors", str(len(suite.findall(".//error"))))
    suite.set("time", f"{real_ns / NS_PER_S:.3f}")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _case(result: CheckResult, known: Known) -> ET.Element:
    family, _, name = result.name.partition("/")
    case = ET.Element(
        "testcase",
        classname=_text(family),
        name=_text(name),
        time=f"{result.real_ns / NS_PER_S:.3f}",
    )
    broken = "\n".join(told(one) for one in result.judgement.broken)
    if result.verdict is Verdict.VIOLATES and is_new(result.name, result.verdict, dict(known)):
        ET.SubElement(case, "failure", message=_text(result.named.scenario.story)).text = _text(
            broken
        )
    elif result.verdict in (Verdict.HOLDS, Verdict.DEPARTS):
        if broken:
            ET.SubElement(case, "system-out").text = _text(f"{result.verdict.value}\n{broken}")
    else:
        reason = result.judgement.reason or f"known: {broken}"
        ET.SubElement(case, "skipped", message=_text(f"{result.verdict.value}: {reason}"))
    return case


def _text(text: str) -> str:
    """``text`` without what XML cannot hold."""
    return _NOT_XML.sub("?", text)
