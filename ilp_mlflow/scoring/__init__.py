"""What a checkpoint makes of samples: tokens, log-probabilities, verdicts."""
