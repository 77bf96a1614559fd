"""A model as it lies in a folder: its files read whole or refused, and what an adapter does."""
