"""Rows that were cut, left out or crowded out."""
