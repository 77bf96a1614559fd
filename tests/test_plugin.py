"""The names for authors of plugins. That a plugin must have the method of its base is tested in core/test_interfaces.py, that one
without our base is a plugin, too, in core/test_plugin_loader.py."""

from ilp_mlflow import plugin


def kind_and_name(name):
    """Sorts constants before classes and classes before functions, each by name."""
    return not name.isupper(), not name[0].isupper(), name


def test_the_public_names_are_all_that_the_module_imports_each_once_and_sorted():
    imported = {name for name in vars(plugin) if not name.startswith("_")}
    assert set(plugin.__all__) == imported
    assert plugin.__all__ == sorted(imported, key=kind_and_name)
