"""The program that the packaging check runs in a clean environment names things that are there."""

import ast
import importlib

from scripts import check_package


def test_the_program_of_the_packaging_check_imports_what_exists():
    for node in ast.walk(ast.parse(check_package.USE)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
