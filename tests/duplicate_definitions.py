"""Find names that a module or class defines twice, as merges leave them.

Run by `python -m tests.duplicate_definitions`; the exit status is 1 if there are any.
Linters see it for functions and imports (F811), not for constants.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("qcrd", "services", "benchmarks", "tests", "examples")


def find_duplicates(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each second definition in one scope, branches and decorated ones aside."""
    scopes = [ast.parse(source)]
    while scopes:
        scope = scopes.pop()
        names: set[str] = set()
        for statement in scope.body:
            for name in _list_names(statement):
                if name in names and name != "_":
                    yield statement.lineno, name
                names.add(name)
            if isinstance(statement, ast.ClassDef):
                scopes.append(statement)


def _list_names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            # `@overload`, `@name.setter` define one thing in several statements.
            return [] if statement.decorator_list else [statement.name]
    return []


def main() -> int:
    duplicates = [
        f"{path}:{line}: `{name}` is defined twice"
        for folder in FOLDERS
        for path in sorted(Path(folder).rglob("*.py"))
        for line, name in find_duplicates(path.read_text())
    ]
    print("\n".join(duplicates) or "No name is defined twice")
    return int(bool(duplicates))


if __name__ == "__main__":
    sys.exit(main())
