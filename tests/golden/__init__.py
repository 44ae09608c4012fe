"""Equality with the published code of the systems that this library began from.

Each `.json` file holds numbers that the published code gave, with a header: repository, commit,
files, the version of torch that ran it, and how the numbers were made. None of that code is here.
Inputs and weights come from `values.draw`, whose numbers NumPy promises to keep (NEP 19).
"""
