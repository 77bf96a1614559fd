"""The built-in diagnostics, one file per cause, each an ordinary plugin behind an entry point."""
