"""Causes confirmed by small trainings without them."""
