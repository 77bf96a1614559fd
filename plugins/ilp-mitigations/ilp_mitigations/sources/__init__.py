"""Where mitigations get data from: texts about samples, and more samples of a pattern."""
