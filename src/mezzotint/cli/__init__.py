"""The command line: one verb, one function. Nothing heavy is imported before a verb needs it."""

# Verbs are listed by `--help` in the order of these imports.
# isort: off
from mezzotint.cli import training as training
from mezzotint.cli import finetuning as finetuning
from mezzotint.cli import transferring as transferring
from mezzotint.cli import studies as studies
from mezzotint.cli import invariances as invariances
from mezzotint.cli import policies as policies
from mezzotint.cli import layers as layers
from mezzotint.cli import codes as codes
from mezzotint.cli import encoders as encoders
from mezzotint.cli import checkpoints as checkpoints
from mezzotint.cli import data as data
from mezzotint.cli import preparing as preparing

# isort: on
from mezzotint.cli.app import app as app
from mezzotint.cli.exits import main as main
