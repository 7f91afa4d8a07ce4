"""Finds where a submission compares what tells workloads apart with what its author wrote down. Runs nothing.

What tells: shapes, counts, names of classes, hints, the target, batches. What is written down: numbers beyond a
handful, and texts. Names are followed through assignments and loops. Whether a size is above 1, or a tensor a matrix,
is no knowledge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.plugins.audit.names import Names

_SMALL = 4
_SIZES = {
    "shape", "size", "numel", "nelement", "in_features", "out_features", "num_embeddings", "embedding_dim",
    "in_channels", "out_channels", "normalized_shape", "num_features", "__name__", "__qualname__",
}  # fmt: skip
_HINTS = {"step_hint", "batch_size_hint", "budget_seconds", "seed", "target", "train_set"}
_FREE = {"goal"}  # of the target: whether less is better is not what tells workloads apart
_FIELDS = {"inputs", "targets", "weights"}  # of a batch: every submission may ask whether labels are masked
_BATCHES = {"next_batch", "batches"}
_COUNTED = {"parameters", "named_parameters", "modules", "named_modules", "parameter_kinds", "state_dict", "children"}
_COMPARING = {"startswith", "endswith", "equal", "__eq__", "find", "count"}
_KEEP = {
    "len", "sum", "min", "max", "int", "float", "str", "repr", "hash", "tuple", "list", "set", "frozenset", "sorted",
    "round", "abs", "next", "iter", "enumerate", "zip", "bool", "reversed", "dict", "map", "prod", "sha256",
    "sha1", "md5",
}  # fmt: skip
_PASS_THROUGH = (
    ast.BinOp, ast.UnaryOp, ast.Tuple, ast.List, ast.Set, ast.Starred, ast.JoinedStr, ast.FormattedValue, ast.IfExp,
    ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.NamedExpr, ast.BoolOp, ast.Dict, ast.DictComp,
)  # fmt: skip


# How much an expression tells: the size of one matrix may be asked for speed, what all of them have together may not.
_NOTHING, _ONE, _WHOLE = 0, 1, 2


def tests_of_knowledge(tree: ast.AST, names: Names) -> Iterator[tuple[int, str]]:
    """Lines where what tells workloads apart meets what was written down, with the reason."""
    telling, known = _Telling(names), _Known()
    for _ in range(4):  # a chain of assignments against their order in the file needs a pass for each link
        for node in ast.walk(tree):
            telling.follow(node)
            known.follow(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.Match) and any(_pairs(node, telling, known)):
            what = node.subject if isinstance(node, ast.Match) else node
            yield node.lineno, f"compares what tells workloads apart with what it knows ({_shown(what)})"


def _pairs(node: ast.AST, telling: _Telling, known: _Known) -> Iterator[bool]:
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        # A bound on one matrix alone is a matter of speed, one on both sides means a certain matrix.
        is_bound = len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        needed = (
            _WHOLE if is_bound or not all(map(known.is_in, [each for each in sides if not telling.of(each)])) else _ONE
        )
        for one in sides:
            yield telling.of(one) >= needed and any(known.is_in(other) for other in sides if not telling.of(other))
    elif isinstance(node, ast.Match):
        yield telling.of(node.subject) > _NOTHING and any(known.is_in(case.pattern) for case in node.cases)
    elif isinstance(node, ast.Subscript):
        yield known.is_table(node.value) and telling.of(node.slice) > _NOTHING
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner, method = node.func.value, node.func.attr
        yield method in ("get", "index") and known.is_table(owner) and any(map(telling.of, node.args[:1]))
        yield method in _COMPARING and telling.of(owner) > _NOTHING and any(map(known.is_in, node.args))


class _Telling:
    """Which names hold what tells workloads apart, and how much it tells."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._bound: dict[str, int] = {}

    def follow(self, node: ast.AST) -> None:
        """Learn from an assignment or a loop what its targets hold."""
        for targets, value in _bindings(node):
            found = self.of(value)
            for each in (each for target in targets for each in ast.walk(target)):
                if isinstance(each, ast.Name) and found > self._bound.get(each.id, _NOTHING):
                    self._bound[each.id] = found

    def of(self, node: ast.AST) -> int:
        """How much the value of the expression tells."""
        if isinstance(node, ast.Name):
            return self._bound.get(node.id, _NOTHING)
        if isinstance(node, ast.Attribute):
            if node.attr in _FREE:
                return _NOTHING
            if node.attr in _HINTS | _BATCHES and self._names.is_of_trial(node.value):
                return _WHOLE
            return max(_ONE if node.attr in _SIZES else _NOTHING, self.of(node.value))
        if isinstance(node, ast.Subscript):
            return self.of(node.value)
        if isinstance(node, ast.Call):
            return self._of_call(node)
        if isinstance(node, _PASS_THROUGH):
            return max(map(self.of, ast.iter_child_nodes(node)), default=_NOTHING)
        return _NOTHING

    def _of_call(self, node: ast.Call) -> int:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "len" and any(map(_counts, node.args)):
            return _WHOLE
        inside = max(map(self.of, node.args), default=_NOTHING) if name in _KEEP else _NOTHING
        return max(self.of(node.func), _WHOLE if inside and name == "sum" else inside)


class _Known:
    """Which names hold what the author wrote down: numbers beyond a handful, texts, and tables with such keys."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._tables: set[str] = set()

    def follow(self, node: ast.AST) -> None:
        """Learn from an assignment what its target holds."""
        for targets, value in _bindings(node):
            found = {target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(value, ast.Constant) and _is_written_down(value):
                self._values |= found
            if self.is_table(value):
                self._tables |= found

    def is_in(self, node: ast.AST) -> bool:
        """Whether the expression, or the pattern, holds what was written down."""
        if isinstance(node, ast.Constant):
            return _is_written_down(node)
        if isinstance(node, ast.Name):
            return node.id in self._values | self._tables
        if isinstance(node, ast.Call):  # range(...), torch.Size([...])
            return any(map(self.is_in, node.args))
        is_whole = isinstance(node, (*_PASS_THROUGH, ast.pattern))
        return is_whole and any(map(self.is_in, ast.iter_child_nodes(node)))

    def is_table(self, node: ast.AST) -> bool:
        """Whether this is a literal whose keys, or elements, were written down; or a name of one.

        Texts count where they hold numbers: with others an optimizer names its own state.
        """
        if isinstance(node, ast.Name):
            return node.id in self._tables
        if isinstance(node, ast.Dict):
            keys = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Set | ast.List | ast.Tuple):
            keys = node.elts
        else:
            return False
        constants = [each for key in keys for each in ast.walk(key) if isinstance(each, ast.Constant)]
        return any(_is_written_down(each) and _is_numeric(each) for each in constants)


def _is_numeric(constant: ast.Constant) -> bool:
    return not isinstance(constant.value, str) or sum(letter.isdigit() for letter in constant.value) > 1


def _is_written_down(constant: ast.Constant) -> bool:
    value = constant.value
    if isinstance(value, str | bytes):
        return len(value) > 0 and value not in _FIELDS
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) > _SMALL or value != int(value)
    return False


def _counts(node: ast.AST) -> bool:
    """Whether what is counted are the parts of a network."""
    return any(isinstance(each, ast.Attribute) and each.attr in _COUNTED for each in ast.walk(node))


def _bindings(node: ast.AST) -> Iterator[tuple[list[ast.expr], ast.expr]]:
    """Targets and value of an assignment, or of one step of a loop."""
    if isinstance(node, ast.Assign):
        yield node.targets, node.value
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
        yield [node.target], node.value
    elif isinstance(node, ast.For | ast.comprehension):
        yield [node.target], node.iter


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node).partition("\n")[0]
    return text if len(text) <= 80 else text[:77] + "..."
