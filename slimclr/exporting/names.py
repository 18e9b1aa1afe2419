"""What classes are called."""

from collections.abc import Sequence
from pathlib import Path

from slimclr.errors import UserError

_IMAGENET = 1000


def class_names(classes: Sequence[str], file: Path | None = None) -> list[str]:
    """Names for people.

    Args:
        classes: WordNet ids, or what else the classes are called, in the order of the outputs.
        file: Lines of a class and its name, as `n01440764 tench, Tinca tinca` (Kaggle's LOC_synset_mapping.txt).

    Returns:
        A name for each: the file's; torchvision's where there are ImageNet's 1000; otherwise the class itself.

    Raises:
        UserError: The file cannot be read as such.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: no list of class names ({error}); write lines 'class name'") from None
        known = dict(line.strip().split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
        return [known.get(name, name) for name in classes]
    if len(classes) == _IMAGENET and list(classes) in (sorted(classes), list(map(str, range(_IMAGENET)))):
        from torchvision.models import ResNet50_Weights

        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    return list(classes)
