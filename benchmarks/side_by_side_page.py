"""What was measured side by side, as one HTML page with plots."""

from __future__ import annotations

import math

from benchmarks.growth import Curve
from benchmarks.server_cpu import YARDSTICK
from benchmarks.side_by_side import SideBySide
from replay.report.html.charts import Chart, bar_chart, line_chart
from replay.report.html.templates import render_page


def page(result: SideBySide) -> str:
    """The whole page."""
    works = list(dict.fromkeys(one.work for one in result.figures))
    charts = []
    for number, work in enumerate(works):
        ratios = {one.server: one.ratio for one in result.figures if one.work == work and one.ratio}
        svg = bar_chart(f"work-{number}", work, ratios, lambda ratio: f"{ratio:g}")
        charts.append(Chart(work, svg, f"Server CPU, times {YARDSTICK}."))
    rows = [
        (
            one.work,
            one.server,
            f"{one.value:,.1f} {one.unit}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
        )
        for one in result.figures
    ]
    growth = [_growth(number, curve) for number, curve in enumerate(result.growth)]
    points = [
        (curve.of, f"{size:,}", f"{value:,.2f} {curve.unit}")
        for curve in result.growth
        for size, value in curve.points
    ]
    warnings = [f"{name} took no part: {reason}" for name, reason in result.missing.items()]
    if result.interrupted:
        warnings.append("The run was interrupted: this is what there was.")
    return render_page(
        "figures.html",
        "mailsrv side by side",
        sentence=f"Medians; servers took turns, ratios are those within a turn. {result.made}",
        warnings=warnings,
        sections=[
            ("Server CPU", charts, ("work", "server", "median", f"times {YARDSTICK}"), rows),
            ("Growth of mailsrv", growth, ("what", "size", "cost"), points),
        ],
    )


def _growth(number: int, curve: Curve) -> Chart:
    drawn = [(math.log10(max(size, 1)), value) for size, value in curve.points]
    decades = range(math.floor(drawn[0][0]), math.ceil(drawn[-1][0]) + 1)
    svg = line_chart(
        f"growth-{number}",
        curve.of,
        {curve.unit: drawn},
        x_labels=[(float(one), f"{10**one:,}") for one in decades],
        y_format=lambda value: f"{value:,.6g}",
    )
    return Chart(f"{curve.of}", svg, f"{curve.unit}; from left to right more {curve.of}, tenfold.")
