"""Benchmarks that ship with the project: one a file, its click command in `command`; each prints one JSON object last.

Timings that have a reference stand beside it, measured in the same run, alternating; medians of three, unless asked for
fewer, with the spread. `memory` looks at peaks, which chance moves little, and runs once.
"""
