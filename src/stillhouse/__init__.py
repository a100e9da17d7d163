"""Stillhouse: distil the models you may, guard the ones you serve, prove who distilled whom.

The rooms, bottom up (docs/architecture.md has the picture):
`exchanges` and `statistics` are used by everything; `teachers` and `students` answer and learn;
`parity` compares the two; `distill` runs the whole job; `cli` is the command line on top.
"""

from importlib.metadata import version

__version__ = version("stillhouse")
