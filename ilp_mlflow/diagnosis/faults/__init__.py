"""Mechanical faults of rows, stages, checkpoints and runs, looked for before any cause is asked.

One group of faults per file, each a pure function of `RunFacts`; `find` puts them together.
"""
