"""Tells whether the order in which a directory was listed can matter to the program, from the source of the caller.

The operating system lists a directory in an order of its own, so a list of training files that nobody sorts differs
from machine to machine. Many listings are harmless, though: sorted, counted, searched, printed. A false alarm costs
more trust than a missed one, so the order is taken to matter only where the source shows the list being kept or used
and nothing that puts it in order.
"""

from __future__ import annotations

import ast
import linecache
from types import FrameType
from typing import Iterator, Optional, Tuple

from .callers import reads_data

# Put their argument in order; a variable that is given to one of them anywhere in its scope counts as sorted.
_SORTING = frozenset(
    ("sorted", "sort", "sort_values", "sort_index", "natsorted", "os_sorted", "unique", "set", "frozenset", "Counter")
)
# Give the same for any order.
_ORDER_FREE = _SORTING | {"len", "any", "all", "sum", "min", "max", "bool"}
# Keep nothing that training could see: output, and tidying up files.
_HARMLESS = frozenset(
    ("print", "debug", "info", "warning", "error", "remove", "unlink", "rmdir", "rmtree", "mkdir", "makedirs",
     "exists", "is_file", "is_dir", "isfile", "isdir", "join", "stat", "getsize", "close", "startswith", "endswith",
     "str", "Path", "copy", "copy2", "copyfile", "move", "rename", "replace", "symlink")
)  # fmt: skip
# Fill what they are called on, here with a listing that is read while they run.
_FILLING = frozenset(("extend", "update", "append", "add"))
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Module)
_MAX_CALLERS = 8

Span = Tuple[int, Optional[int], Optional[int], Optional[int]]
_trees: dict[str, ast.Module | None] = {}


def order_matters(frame: FrameType) -> bool:
    """Return whether what the call that `frame` is in the middle of returns is kept in the order it comes in.

    A list that the caller returns is followed to the caller's caller, as long as that one reads data too.
    """
    current: FrameType | None = frame
    for _ in range(_MAX_CALLERS):
        if current is None or not reads_data(current):
            return True
        tree = _tree(current)
        verdict = _judge(tree, _span(current)) if tree is not None else True
        if verdict is not None:
            return verdict
        current = current.f_back
    return True


def _tree(frame: FrameType) -> ast.Module | None:
    name = frame.f_code.co_filename
    if name not in _trees:
        try:
            _trees[name] = ast.parse("".join(linecache.getlines(name, frame.f_globals)))
        except (SyntaxError, ValueError):
            _trees[name] = None
    tree = _trees[name]
    return tree if tree is not None and tree.body else None


def _span(frame: FrameType) -> Span:
    """Return line, end line, column and end column of what the frame is executing; only the line before 3.11."""
    positions = getattr(frame.f_code, "co_positions", None)
    if positions is not None:
        for index, (line, end_line, column, end_column) in enumerate(positions()):
            if index == frame.f_lasti // 2 and line is not None:
                return line, end_line, column, end_column
    return frame.f_lineno, None, None, None


def _judge(tree: ast.Module, span: Span) -> bool | None:
    """Return whether the order matters to the code around `span`, or None when that is up to its caller."""
    chain = _chain(tree, span)
    statement_at = max(index for index, node in enumerate(chain) if isinstance(node, (ast.stmt, ast.Module)))
    statement, inner = chain[statement_at], chain[statement_at + 1 :]
    if span[2] is None:  # the line alone: any call on it may be the one
        inner = [node for header in _header(statement) for node in ast.walk(header) if _covers_line(node, span[0])]
    if any(_fixes_order(node) for node in inner):
        return False
    if isinstance(statement, (ast.If, ast.While, ast.Assert)):
        return False
    if isinstance(statement, ast.Return) or any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in inner):
        return None
    kept = _kept_by(statement, inner)
    if kept is not None and not kept:
        return False
    scope = next(node for node in reversed(chain[: statement_at + 1]) if isinstance(node, _SCOPES))
    return True if kept is None else _followed(kept, scope, tree)


def _chain(tree: ast.Module, span: Span) -> list[ast.AST]:
    """Return the nodes that enclose `span`, outermost first."""
    chain: list[ast.AST] = [tree]
    while True:
        for child in ast.iter_child_nodes(chain[-1]):
            for node in (child,) if hasattr(child, "lineno") else ast.iter_child_nodes(child):
                if _encloses(node, span):
                    chain.append(node)
                    break
            else:
                continue
            break
        else:
            return chain


def _encloses(node: ast.AST, span: Span) -> bool:
    line, end_line, column, end_column = span
    if not _covers_line(node, line):
        return False
    if column is None or end_line is None or end_column is None:
        return isinstance(node, ast.stmt)
    first = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
    last = (getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0))
    return first <= (line, column) and (end_line, end_column) <= last


def _covers_line(node: ast.AST, line: int) -> bool:
    return getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", None) or -1)


def _header(statement: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions of a statement without the statements nested in it."""
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield child


def _fixes_order(node: ast.AST) -> bool:
    """Say whether an expression gives the same for any order of what is listed inside it."""
    if isinstance(node, ast.Call):
        return _called(node) in _ORDER_FREE
    if isinstance(node, ast.Compare):
        return any(isinstance(operator, (ast.In, ast.NotIn)) for operator in node.ops)
    return isinstance(node, ast.SetComp)


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _kept_by(statement: ast.AST, inner: list[ast.AST]) -> set[str] | None:
    """Return the variables that hold the listing afterwards, none if it is dropped; None if it goes elsewhere."""
    if isinstance(statement, (ast.For, ast.AsyncFor)):
        return _kept_by_body(statement.body, _names(statement.target))
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        held = {name for item in statement.items if item.optional_vars for name in _names(item.optional_vars)}
        return held or None
    if isinstance(statement, ast.Expr):
        outermost = statement.value
        if not isinstance(outermost, ast.Call) or _called(outermost) in _HARMLESS:
            return set()
        if outermost is inner[-1] and _called(outermost) not in _FILLING:
            return set()  # the listing itself, and nobody takes what it returns
        receiver = getattr(outermost.func, "value", None)
        return (_names(receiver) or None) if receiver is not None else None
    targets = _targets(statement)
    for node in inner:
        if isinstance(node, ast.NamedExpr):
            targets |= _names(node.target)
    return targets or None


def _kept_by_body(body: list[ast.stmt], targets: set[str]) -> set[str] | None:
    """Return what a loop over a listing keeps: its variables, and whatever it fills; nothing if it only tidies up."""
    kept = set(targets)
    busy = False
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)):
            busy = True
        elif isinstance(node, ast.stmt):
            found = _targets(node)
            busy = busy or bool(found)
            kept |= found
        elif isinstance(node, ast.Call) and _called(node) not in _HARMLESS:
            busy = True
            receiver = getattr(node.func, "value", None)
            kept |= _names(receiver) if receiver is not None else set()
    return kept if busy else set()


def _targets(statement: ast.AST) -> set[str]:
    if isinstance(statement, ast.Assign):
        return {name for target in statement.targets for name in _names(target)}
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return _names(statement.target)
    return set()


def _names(node: ast.AST) -> set[str]:
    """Return the variables that an expression assigns to or is called on: `files`, `self.files`, both of `a, b`."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {"%s.%s" % (base, node.attr) for base in _names(node.value)}
    if isinstance(node, (ast.Subscript, ast.Starred)):
        return _names(node.value)
    if isinstance(node, (ast.Tuple, ast.List)):
        return {name for element in node.elts for name in _names(element)}
    return set()


def _followed(kept: set[str], scope: ast.AST, tree: ast.Module) -> bool | None:
    """Follow the variables that hold a listing through their scope: does anything sort them, is anything else done?"""
    if any("." in name for name in kept):
        scope = tree  # an attribute is often sorted in another method
    nodes = list(ast.walk(scope))
    while True:
        before = len(kept)
        for node in nodes:
            targets = _targets(node)
            if targets and _mentions(getattr(node, "value", None), kept):
                kept |= targets
            elif isinstance(node, (ast.For, ast.AsyncFor)) and _mentions(node.iter, kept):
                kept |= _names(node.target) | (_kept_by_body(node.body, set()) or set())
        if len(kept) == before:
            break
    if any(_sorts(node, kept) for node in nodes):
        return False
    if any("." in name for name in kept):
        return True  # and read wherever the object goes
    if any(isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)) and _mentions(node, kept) for node in nodes):
        return None
    return any(_uses(node, kept) for node in ast.iter_child_nodes(scope))


def _mentions(node: ast.AST | None, names: set[str]) -> bool:
    return node is not None and any(
        isinstance(each, (ast.Name, ast.Attribute)) and bool(_names(each) & names) for each in ast.walk(node)
    )


def _sorts(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and _called(node) in _SORTING and _mentions(node, names)


def _uses(node: ast.AST, names: set[str]) -> bool:
    """Say whether anything below `node` reads one of the variables for more than counting, searching or printing."""
    if _fixes_order(node) or (isinstance(node, ast.Call) and _called(node) in _HARMLESS):
        return False
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and _names(node.test) & names:
        return any(_uses(child, names) for child in ast.iter_child_nodes(node) if child is not node.test)
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load) and _names(node) & names:
        return True
    return any(_uses(child, names) for child in ast.iter_child_nodes(node))
