"""`python -m zfjax.compare`."""

from zfjax.compare import main
from zfjax.console import command

raise SystemExit(command.run(main))
