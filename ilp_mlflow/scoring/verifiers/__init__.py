"""Checks of completions: those that come with the package, and how one's own is called.

Each has the signature of TRL's reward functions: completions and the rows' columns in, a value for
every completion out, None for one that it cannot judge.
"""
