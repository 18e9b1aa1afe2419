"""YAML without its traps: a doubled key, a key that is read as something else, aliases that grow without end."""

from pathlib import Path
from typing import Any

from slimclr.errors import UserError


def read_yaml(path: Path) -> Any:
    """Read a YAML file; nothing that it names is called.

    Raises:
        UserError: It is missing, not UTF-8, not YAML, nested too deeply, or has a key twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    import yaml

    from slimclr.config.yaml_loader import StrictLoader

    try:
        # A safe loader: it knows no tag that stands for a call.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError:
        raise
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested too deeply; write it flat") from None
    # A tag in front of a value that does not go with it (`!!bool 7`, a date of month 13) fails in any way.
    except Exception as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
