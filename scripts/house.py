"""Measure the package: lines, modules, longest functions, and imports that run up.

Prints each number beside its limit; exit code 1 where a limit is exceeded.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "revt_hf"
# A room may import from those to its left, and from itself.
ROOMS = [
    "core",
    "config",
    "data",
    "checkpoints",
    "models",
    "evaluation",
    "training",
    "merging",
    "results",
    "analysis",
    "hub",
    "experiments",
    "data_tools",
    "prediction",
    "export",
    "speed",
    "app",
    "demo",
    "cli",
]
MODULE_LIMIT, FUNCTION_LIMIT = 300, 60
_IMPORT_TIME = (
    "import time, sys; t = time.perf_counter(); import revt_hf; "
    "print(time.perf_counter() - t); assert not {'torch', 'transformers'} & set(sys.modules)"
)


def modules(folder: Path) -> Iterator[tuple[Path, str, ast.Module]]:
    """Each Python file below a folder: its path, text and syntax tree."""
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path, text, ast.parse(text)


def room_of(module: str) -> str | None:
    """The room of a dotted module name; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == PACKAGE else None


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def upward_imports() -> list[str]:
    """Imports of a room from one that stands to its right in ``ROOMS``."""
    found = []
    for path, _, tree in modules(ROOT / PACKAGE):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) < 3:
            continue
        for name in imported(tree):
            other = room_of(name)
            if other in ROOMS and ROOMS.index(other) > ROOMS.index(parts[1]):
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


def import_circles() -> list[str]:
    """Modules that import each other when they are loaded, through others or not."""
    graph: dict[str, set[str]] = {}
    for path, _, tree in modules(ROOT / PACKAGE):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top = ast.Module([node for node in tree.body if isinstance(node, ast.ImportFrom)], [])
        graph[name] = {one for one in imported(top) if one.startswith(PACKAGE)}
    done: set[str] = set()
    circles = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circles.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done and name in graph:
            for other in sorted(graph[name] - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    return circles


def long_modules() -> list[str]:
    """Modules of the package over the limit."""
    return [
        f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines"
        for path, text, _ in modules(ROOT / PACKAGE)
        if text.count("\n") > MODULE_LIMIT
    ]


def long_functions() -> list[str]:
    """Functions of the package over the limit, docstrings not counted."""
    found = []
    for path, _, tree in modules(ROOT / PACKAGE):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
                if length > FUNCTION_LIMIT:
                    found.append(f"{path.relative_to(ROOT)}:{node.name}: {length} lines")
    return found


def lines(folder: str) -> int:
    """Lines of Python below a folder."""
    return sum(text.count("\n") for _, text, _ in modules(ROOT / folder))


def import_seconds() -> float:
    """The shortest of five imports of the package, each in a process of its own."""
    command = [sys.executable, "-c", _IMPORT_TIME]
    return min(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    )


def main() -> int:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").count("\n")
    numbers = [
        ("lines of Python in revt_hf", lines(PACKAGE), 23_000),
        ("lines of Python in tests", lines("tests"), 16_000),
        ("modules in revt_hf", sum(1 for _ in modules(ROOT / PACKAGE)), 149),
        ("lines of README.md", readme, 119),
        ("milliseconds to import revt_hf", round(import_seconds() * 1000), 99),
        (f"modules over {MODULE_LIMIT} lines", len(long_modules()), 0),
        (f"functions over {FUNCTION_LIMIT} lines", len(long_functions()), 0),
        ("imports that run up", len(upward_imports()), 0),
        ("circles of imports", len(import_circles()), 0),
    ]
    for name, value, limit in numbers:
        print(f"{name}: {value:,} (limit {limit:,}){'' if value <= limit else '  <- over'}")
    for problem in (*long_modules(), *long_functions(), *upward_imports(), *import_circles()):
        print(f"  {problem}")
    return 0 if all(value <= limit for _, value, limit in numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
