"""What `read_yaml` reads with; apart from it, so that PyYAML is imported only where a file is read."""

from typing import Any

import yaml

# Far more than any file of ours has, once every alias is replaced by what it stands for.
_MAX_VALUES = 100_000
_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


class StrictLoader(yaml.SafeLoader):
    """Keys are text as it is written (YAML 1.1 would take `on` for true), and none is there twice."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, counted with all below it."""
        is_alias, before = self.check_event(yaml.AliasEvent), self._values
        self._values += 1
        node = super().compose_node(parent, index)
        if node is not None and is_alias:
            # A node that is not whole yet has no size: it holds itself.
            self._values += self._sizes.get(node, _MAX_VALUES)
        elif node is not None:
            self._sizes[node] = self._values - before
        if self._values > _MAX_VALUES:
            raise yaml.YAMLError(f"more than {_MAX_VALUES} values, or an alias of what it is in; write fewer aliases")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are all different."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            key.tag, line = _TEXT, key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"line {line}: the key {key.value!r} is there twice, first in line {lines[key.value]}; keep one"
                )
            lines[key.value] = line
        return node
