"""Pages by Jinja2 templates, in which nothing from outside can act.

Whatever a template writes is escaped, and cleared of what would move the cursor or the direction
of writing, unless it is ``Html``; and should that ever fail, the page's own policy forbids every
script but the one in it and every load.  Jinja2 comes with the extra ``report``.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from replay.report.html.markup import Html, plain


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("replay.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )


def render(template: str, **values: Any) -> Html:
    """What ``template`` makes of ``values``."""
    return Html(_environment().get_template(template).render(values))


def render_page(template: str, title: str, script: str = "", **values: Any) -> str:
    """A whole page: one file that needs nothing else.  ``script`` is the name of the one it has."""
    code = _resource(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    sources = f"'sha256-{digest}'" if script else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {sources}"
    return render(
        template,
        title=title,
        policy=policy,
        style=Html(_resource("report.css")),
        script=Html(code),
        **values,
    )


def _resource(name: str) -> str:
    return files("replay.report.html").joinpath(name).read_text("utf-8").strip()
