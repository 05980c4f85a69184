"""Benchmarks that ship with the project, one per file with its click command. Each prints one JSON object last.

Timings with a reference alternate with it in the same run. Figures are medians of three by default, with their spread.
`memory` measures peaks, which vary little, and runs once.
"""
