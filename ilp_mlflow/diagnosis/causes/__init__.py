"""The built-in causes, one file each, each an ordinary plugin behind an entry point."""
