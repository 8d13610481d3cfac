"""`python -m zfjax.figures`."""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from zfjax.console import command
from zfjax.figures import main

if __name__ == "__main__":
    command.execute(main)
