"""What every other folder stands on: values, errors, configuration, plugins, the terminal."""
