"""Tests: one file a module, at the same path; contracts take in every class of a family."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
