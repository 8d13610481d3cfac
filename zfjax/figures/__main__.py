"""`python -m zfjax.figures`."""

from zfjax.console import command, signals
from zfjax.figures import main

if __name__ == "__main__":
    signals.listen()
    command.execute(main)
