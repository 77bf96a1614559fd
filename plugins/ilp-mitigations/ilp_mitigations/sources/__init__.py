"""Where mitigations get data they cannot make: texts about something, and more samples of a pattern."""
