"""Line charts as SVG for a page: drawn by pygal, coloured by the page's style sheet.

pygal's own style sheet, script and links are taken out, so that a chart follows the reader's light
or dark, is small, and neither runs nor fetches anything.  pygal comes with the extra ``report``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pygal
from pygal.style import Style

from replay.report.html.markup import NOTHING, Html, plain

WIDTH, HEIGHT = 620, 320
"""Units of the drawing: two beside each other on a wide screen, one on a narrow one."""
FONT_PX = 16
"""Of the greatest text that the style sheet makes."""
SERIES_MAX = 8
"""In one chart: as many colours the style sheet has."""
_LABELS_WANTED = 6
_LEGEND_LINE = 32
"""Its length: each pattern of dashes is seen in it."""
_NOT_DRAWN = ("script", "defs", "style", "desc", "title", "comment")


class Chart(NamedTuple):
    """A drawing with its words; without one, ``empty`` says why there is none."""

    title: str
    svg: Html
    caption: str
    empty: str = "Nothing was measured."


Points = Sequence[tuple[float, float]]
Labels = Sequence[tuple[float, str]]
Format = Callable[[float], str]


def line_chart(
    name: str,
    title: str,
    series: Mapping[str, Points],
    *,
    x_labels: Labels,
    y_format: Format,
    logarithmic: bool = False,
) -> Html:
    """A chart of at most ``SERIES_MAX`` lines; nothing where there are no points.

    ``name`` is unique in the page.  A logarithmic axis has only values over 0.
    """
    drawn = {label: points for label, points in series.items() if points}
    drawn = dict(list(drawn.items())[:SERIES_MAX])
    if not drawn:
        return NOTHING
    values = [y for points in drawn.values() for _, y in points]
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    ticks = _decades(values) if logarithmic else _ticks(max(values))
    chart = pygal.XY(
        **_common(),
        show_dots=any(len(points) == 1 for points in drawn.values()),
        dots_size=3,
        legend_at_bottom=True,
        truncate_legend=-1,
        range=(scale(ticks[0]), scale(ticks[-1])),
        xrange=(x_labels[0][0], x_labels[-1][0]),
    )
    chart.uuid = name
    chart.x_labels = [{"value": at, "label": label} for at, label in x_labels]
    chart.y_labels = [{"value": scale(at), "label": y_format(at)} for at in ticks]
    for label, points in drawn.items():
        chart.add(plain(label), [(x, scale(y)) for x, y in points])
    return _pruned(chart.render_tree(), title)


def bar_chart(name: str, title: str, values: Mapping[str, float], y_format: Format) -> Html:
    """A bar for each value, beside each other; nothing where there are none."""
    if not values:
        return NOTHING
    labels = list(values)[::-1]  # from the bottom up
    ticks = _ticks(max(values.values()))
    chart = pygal.HorizontalBar(**_common(), range=(0, ticks[-1]), show_legend=False)
    chart.uuid = name
    chart.x_labels = [plain(label) for label in labels]
    chart.y_labels = [{"value": at, "label": y_format(at)} for at in ticks]
    chart.add("", [values[label] for label in labels])
    return _pruned(chart.render_tree(), title)


def _common() -> dict[str, Any]:
    """What all charts share: nothing but the drawing, with room for the page's text."""
    return {
        "css": (),
        "js": (),
        "explicit_size": False,
        "width": WIDTH,
        "height": HEIGHT,
        "margin": 8,
        "margin_right": 34,
        "truncate_label": -1,
        "classes": ("chart",),
        "title": None,
        "style": Style(label_font_size=FONT_PX, legend_font_size=FONT_PX),
    }


def time_labels(seconds: float) -> Labels:
    """Round instants of a run that long."""
    return [(at, f"{at:g} s") for at in _ticks(max(seconds, 1.0))]


def _ticks(greatest: float) -> list[float]:
    """From 0 on, in steps of 1, 2 or 5 times a power of ten, to above ``greatest``."""
    rough = max(greatest, 1e-9) / _LABELS_WANTED
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(step * number, 9) for number in range(math.ceil(greatest / step) + 1)] or [0, 1]


def _decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around all values; between them 2 and 5 where these are few."""
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    factors = (1, 2, 5) if high - low <= 2 else (1,)
    return [factor * 10.0**power for power in range(low, high) for factor in factors] + [10.0**high]


def _pruned(root: Any, title: str) -> Html:
    """The drawing without what would run, fetch or colour it, and with its title to be read."""
    _prune(root)
    _draw_legends(root)
    root.set("role", "img")
    root.set("aria-label", plain(title))
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _prune(element: Any) -> None:
    for child in list(element):
        name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else "comment"
        if name in _NOT_DRAWN or _is_tooltip(child):
            element.remove(child)
        else:
            _prune(child)


def _draw_legends(root: Any) -> None:
    """A legend shows its line, dashes and all: squares of colours are alike in print."""
    for group in root.iter():
        if "legend" not in group.get("class", "").split():
            continue
        number = group.get("id", "").rpartition("-")[2]
        group.set("class", f"legend serie-{number}")
        box = group[0]
        left, top, size = (float(box.attrib.pop(name)) for name in ("x", "y", "height"))
        box.attrib.pop("width")
        box.tag = box.tag.replace("rect", "line")
        middle = f"{top + size / 2:g}"
        ends = {"x1": f"{left + size - _LEGEND_LINE:g}", "x2": f"{left + size:g}"}
        box.attrib.update(ends | {"y1": middle, "y2": middle, "class": f"line color-{number}"})


def _is_tooltip(element: Any) -> bool:
    return any(word.endswith("-overlay") for word in element.get("class", "").split())
