"""Which rows contradict a sample: rivals, votes of near rows, and which side is wrong."""
