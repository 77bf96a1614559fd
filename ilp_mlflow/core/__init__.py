"""What everything else stands on: values, errors, configuration, the plugin interface, the terminal."""
