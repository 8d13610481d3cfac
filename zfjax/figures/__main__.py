"""`python -m zfjax.figures`."""

from zfjax.console import command
from zfjax.figures import main

raise SystemExit(command.run(main))
