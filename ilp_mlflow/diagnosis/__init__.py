"""Why a sample is not learned: what is known, evidence for each cause, one cause named."""
