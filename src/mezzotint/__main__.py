"""`python -m mezzotint`: the command line, also under `torchrun -m`."""

from mezzotint.cli import main

if __name__ == "__main__":
    main()
