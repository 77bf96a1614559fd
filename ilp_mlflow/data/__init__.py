"""Rows: read from where they lie, made into samples, compared, perturbed."""
