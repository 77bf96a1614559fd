"""Answers and end tokens that were in no loss."""
