"""From scores to verdicts: rules that judge rows, their judgements, and what these add up to."""
