"""YAML in which nothing a user wrote is lost: a key given twice is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ilp_mlflow.core.errors import ConfigError, first_line


def load_yaml(text: str, path: Path) -> Any:
    """The document in `text`, read from `path`, as plain Python values.

    Raises ConfigError, with the line where it is known, when `text` is not YAML or gives a key of a
    mapping twice.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        place = f"{path} line {error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {first_line(error)}") from None


def dump_yaml(value: Any) -> str:
    """Plain Python values as YAML that `load_yaml` reads as the same; mappings keep their order."""
    return yaml.dump(value, Dumper=_StrictDumper, sort_keys=False)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error and 2e-4 is a number.

    No YAML 1.2 library in its place: ruamel.yaml overlooks a key given twice beside a merge key
    (`<<`), and reads `bf16: no` as the text "no", which `trl.SFTConfig` takes for true.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            # a list or mapping as a key is refused below
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' is given twice", key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """Puts quotes around what the loader would otherwise not read as text."""


# YAML 1.1 reads 2e-4 as text, for want of a dot; everyone who writes it means the number.
for _kind in (_StrictLoader, _StrictDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
