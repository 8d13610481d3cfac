"""`python -m zfjax.explain`."""

from zfjax.console import command, signals
from zfjax.explain import main

if __name__ == "__main__":
    signals.listen()
    command.execute(main)
