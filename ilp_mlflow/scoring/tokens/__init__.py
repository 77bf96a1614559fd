"""Text as tokens: encoded, in trees, in words, and what models give for each."""
