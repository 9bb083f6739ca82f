"""Reads the parameters of the protocols EC2 query and query, in which names have dots and all values are text."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from botocore.model import Shape


@dataclass
class Node:
    """The meaning of a name: a value, or names below it."""

    value: str | None = None
    below: dict[str, "Node"] = field(default_factory=dict)


@dataclass
class QueryReader:
    """Converts parameters to the types of their shapes. One without a shape is a problem, and is left out."""

    is_ec2: bool
    problems: list[str]

    def read(self, fields: dict[str, str], shape: Shape | None, operation: str) -> dict[str, Any]:
        root = Node()
        for name, value in fields.items():
            node = root
            for part in name.split("."):
                node = node.below.setdefault(part, Node())
            node.value = value
        if shape is None:
            return dict(fields)
        return self._structure(root, shape, operation)

    def _value(self, node: Node, shape: Shape, path: str) -> Any:
        match shape.type_name:
            case "structure":
                return self._structure(node, shape, path)
            case "list":
                return self._list(node, shape, path)
            case "map":
                return self._map(node, shape, path)
        if node.below:
            self.problems.append(f"{path} is a {shape.type_name}, but has members: {sorted(node.below)}")
        return self._scalar(node.value, shape.type_name, path)

    def _structure(self, node: Node, shape: Shape, path: str) -> dict[str, Any]:
        if node.value:
            self.problems.append(f"{path} is a structure, but has the value {node.value!r}")
        names = {self._wire_name(name, member): name for name, member in shape.members.items()}
        read = {}
        for wire_name, child in node.below.items():
            name = names.get(wire_name)
            if name is None:
                self.problems.append(f"{path}.{wire_name}: there is no such member")
            else:
                read[name] = self._value(child, shape.members[name], f"{path}.{name}")
        return read

    def _wire_name(self, name: str, member: Shape) -> str:
        serialization = member.serialization
        if not self.is_ec2:
            if member.type_name == "list" and serialization.get("flattened"):
                name = member.member.serialization.get("name", name)
            return serialization.get("name", name)
        if "queryName" in serialization:
            return serialization["queryName"]
        name = serialization.get("name", name)
        return name[0].upper() + name[1:]

    def _list(self, node: Node, shape: Shape, path: str) -> list:
        if not node.below and not node.value:
            return []  # This is how an empty list is encoded.
        if not self.is_ec2 and not shape.serialization.get("flattened"):
            node = node.below.get(shape.member.serialization.get("name", "member"), Node())
        return [self._value(child, shape.member, f"{path}[]") for child in self._numbered(node, path)]

    def _map(self, node: Node, shape: Shape, path: str) -> dict:
        if not shape.serialization.get("flattened"):
            node = node.below.get("entry", Node())
        key = shape.key.serialization.get("name", "key")
        value = shape.value.serialization.get("name", "value")
        read = {}
        for entry in self._numbered(node, path):
            if entry.below.keys() != {key, value}:
                self.problems.append(f"{path}: an entry has {sorted(entry.below)}, not {key} and {value}")
                continue
            at = self._value(entry.below[key], shape.key, path)
            read[at] = self._value(entry.below[value], shape.value, f"{path}.{at}")
        return read

    def _numbered(self, node: Node, path: str) -> list[Node]:
        if sorted(node.below) != sorted(str(i + 1) for i in range(len(node.below))) or not node.below:
            self.problems.append(f"{path}: its items are numbered {sorted(node.below)}")
        return list(node.below.values())

    def _scalar(self, value: str | None, kind: str, path: str) -> Any:
        try:
            match kind:
                case _ if value is None:
                    raise ValueError
                case "boolean":
                    return {"true": True, "false": False}[value]
                case "integer" | "long":
                    return int(value)
                case "float" | "double":
                    return float(value)
                case "blob":
                    return base64.b64decode(value, validate=True)
        except (ValueError, KeyError, binascii.Error):
            self.problems.append(f"{path}: {value!r} is not of type {kind}")
            return None
        return value
