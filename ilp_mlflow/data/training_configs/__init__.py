"""The configuration files of trainers, read for what they do to rows."""
