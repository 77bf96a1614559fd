"""Checkpoints that are not what training made."""
