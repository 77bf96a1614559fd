"""A diagnostic and a mitigation for long answers: the tutorial in docs/plugins.md."""
