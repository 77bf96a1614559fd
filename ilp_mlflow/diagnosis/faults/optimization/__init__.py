"""Trainings that got nowhere, told from their logs."""
