"""Benchmarks that ship with the project: one a file, its click command in `command`; each prints one JSON object last.

Timings stand beside their reference, measured in the same run, alternating; medians of at least three, with the spread.
"""
