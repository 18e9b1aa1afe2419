"""SlimCLR (arXiv 2209.15525): slimmable networks for contrastive self-supervised learning.

`slimclr.load`, `slimclr.export`, `slimclr.SlimmableResNet` and the losses are for other programs (docs/library.md).
Each is imported when it is first used, so `import slimclr` takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimclr import losses
    from slimclr.errors import UserError
    from slimclr.library import load
    from slimclr.nn import SlimmableResNet
    from slimclr.stages.export import export

__version__ = "0.1.0"

__all__ = ["SlimmableResNet", "UserError", "__version__", "export", "load", "losses"]

_HOMES = {
    "SlimmableResNet": "slimclr.nn",
    "UserError": "slimclr.errors",
    "export": "slimclr.stages.export",
    "load": "slimclr.library",
    "losses": "slimclr.losses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if name == "losses" else getattr(home, name)


def __dir__() -> list[str]:
    return __all__
