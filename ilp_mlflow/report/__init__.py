"""What was found, for people: a page, a terminal, Markdown, MLflow."""
