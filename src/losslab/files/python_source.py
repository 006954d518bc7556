"""Python source as text that does not depend on its layout: the code of an objective counts by it."""

import ast
from typing import Any

KEYS = "losslab.keys"  # the module of `key`


def syntax(source: str) -> str:
    """The syntax tree of Python source as text, which depends neither on layout, comments and docstrings nor on the
    version of Python: it is what `ast.dump` of Python 3.11 prints, in which records have been written.

    Nor does it depend on meaning and bounds of a parameter: `x: float = key(1.0, ...)` counts as `x: float = 1.0`.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.Module):
            node.body = [part for part in node.body if not (isinstance(part, ast.ImportFrom) and part.module == KEYS)]
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                match part:
                    case ast.AnnAssign(value=ast.Call(func=ast.Name(id="key"), args=[default, *_])):
                        part.value = default
    return _dump(tree)


def _dump(node: Any) -> str:
    if isinstance(node, list):
        return "[" + ", ".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        left_out = value is None and getattr(type(node), name, ...) is None  # an optional part that is not there
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty text
            value = [part for part in value if not (isinstance(part, ast.Constant) and part.value == "")]
        if not left_out and (name, value) != ("type_params", []):  # which Python 3.11 does not know
            fields.append(f"{name}={_dump(value)}")
    return f"{type(node).__name__}({', '.join(fields)})"
