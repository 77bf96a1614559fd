"""Models that speak, and are asked: completions, greedy answers, probabilities of answers."""
