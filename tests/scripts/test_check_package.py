"""The program that the packaging check runs in a clean environment names things that are there."""

import ast
import importlib
import runpy

from tests import ROOT


def test_the_program_of_the_packaging_check_imports_what_exists() -> None:
    program = runpy.run_path(str(ROOT / "scripts/check_package.py"))["USE"]
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
