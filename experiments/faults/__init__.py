"""Mechanical faults planted in rows and in whole trainings, and what the tool says of them."""
