"""The clock, the timer wheel, the poll and the event loop."""
