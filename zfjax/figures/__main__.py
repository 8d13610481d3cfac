"""`python -m zfjax.figures`."""

from zfjax import command
from zfjax.figures import main

raise SystemExit(command.run(main))
