"""The terminal: progress bars, text that fits it, and Ctrl-C."""
