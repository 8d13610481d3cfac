"""Python files of users: recipes, and models."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.text import first_line, reason


def executed(file: str, flag: str, example: str) -> ModuleType:
    """Run a user's file, which may import its neighbors as under `python FILE.py`, and return it as a module.

    Args:
        file: its path.
        flag: what to call it in errors, such as `--config`.
        example: a path as expected, for errors.

    Raises:
        UserError: there is no such file, or it fails.
    """
    path = Path(user_path(file, flag, local=f"like {example}"))
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise UserError(f"{flag}: {what}: '{file}'; expected a path like {example}")
        loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        loader.exec_module(module)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{flag}: {error.filename or file}: {reason(error)}") from error
    except (Exception, SystemExit) as error:  # a program, and the user's
        raise UserError(f"{flag}: {type(error).__name__}: {first_line(error)}") from error
    return module
