"""`python -m zfjax.compare`."""

from zfjax import command
from zfjax.compare import main

raise SystemExit(command.run(main))
