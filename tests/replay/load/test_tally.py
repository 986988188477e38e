"""Histograms as files."""

from __future__ import annotations

import io
import re

from mailsrv.units import NS_PER_MS
from replay.load.tally import Latency


def test_the_mean_and_the_deviation_of_a_histogram_file_are_in_milliseconds() -> None:
    latency = Latency()
    for ms in (2, 4, 4, 4, 5, 5, 7, 9):  # whose mean is 5 and whose deviation is 2
        latency.record(ms * NS_PER_MS)
    written = io.BytesIO()
    latency.write_hgrm(written)
    text = written.getvalue().decode()
    mean, deviation = map(float, re.findall(r"(?:Mean|StdDeviation) +=\s+([\d.]+)", text))
    assert (round(mean, 1), round(deviation, 1)) == (5, 2)
