"""The built-in mitigations: each file is one plugin that uses the public interface only."""
