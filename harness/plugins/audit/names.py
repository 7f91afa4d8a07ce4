"""What names in a submission's source stand for: imported modules, the trial and what comes from it. Runs nothing."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator


class Names:
    """The names of one file, read without regard to where they are bound: one of them may stand for several things."""

    def __init__(self, tree: ast.AST) -> None:
        self._imported: dict[str, str] = {}
        self._trials = {"trial"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._imported[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                self._imported.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
            elif isinstance(node, ast.FunctionDef):
                self._trials |= set(_trials_of(node))

    def dotted(self, node: ast.AST) -> str | None:
        """The full name of what a name or a chain of attributes of an imported module is; of a plain name, itself."""
        if isinstance(node, ast.Name):
            return self._imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value)
            return None if owner is None else f"{owner}.{node.attr}"
        return None

    def used_by(self, node: ast.AST) -> Iterator[str]:
        """Full names that the node alone imports, or reads off an imported module, or calls as Python's own."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            root: ast.AST = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in self._imported:
                yield str(self.dotted(node))
        elif isinstance(node, ast.Name) and hasattr(builtins, node.id) and node.id not in self._imported:
            yield node.id

    def is_of_trial(self, node: ast.AST) -> bool:
        """Whether this is the trial, or read off it: `trial.model`."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self._trials


def _trials_of(function: ast.FunctionDef) -> Iterator[str]:
    """Parameters that are the trial: the first one of `train`, and all that say so."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    if function.name == "train" and len(arguments) > 1 and arguments[0].arg != "self":
        yield arguments[0].arg
    for argument in arguments:
        if argument.annotation is not None and ast.unparse(argument.annotation).endswith(("Trial", "Trial'", 'Trial"')):
            yield argument.arg
