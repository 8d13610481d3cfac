"""`python -m zfjax.explore`."""

from zfjax.console import command, signals
from zfjax.explore import main

if __name__ == "__main__":
    signals.listen()
    command.execute(main)
