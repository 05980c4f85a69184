"""Know before you run: where to cut a model, which node takes which part, and how long a round will take.

Pure functions of what a person measured and wrote down. Nothing here builds a model, opens a file or reads a clock.
"""
