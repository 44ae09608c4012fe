"""The command line: one verb, one function. Nothing heavy is imported before a verb needs it."""

# Verbs are listed by `--help` in the order of these imports.
# isort: off
from mezzotint.cli import training as training
from mezzotint.cli import evaluation as evaluation
from mezzotint.cli import finetuning as finetuning
from mezzotint.cli import analysis as analysis
from mezzotint.cli import trials as trials
from mezzotint.cli import encoders as encoders
from mezzotint.cli import data as data

# isort: on
from mezzotint.cli.app import app as app
from mezzotint.cli.app import main as main
