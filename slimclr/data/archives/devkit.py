"""The classes of the validation images, from the devkit, Kaggle's list or the user's own list."""

import io
import zipfile
import zlib
from pathlib import Path

from slimclr.data.archives.entries import open_zip
from slimclr.data.archives.kinds import is_zip
from slimclr.data.archives.tar import files, flat_name, open_tar, read_member
from slimclr.errors import UserError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"


def read_classes(path: Path) -> dict[str, str]:
    """The class of every validation image.

    Args:
        path: `ILSVRC2012_devkit_t12.tar.gz` or its folder; a text file (`*.txt`) of lines `name wnid`; or Kaggle's
            `LOC_val_solution.csv`, its zip or the folder in which it lies.

    Returns:
        File name to WordNet id.

    Raises:
        UserError: The file is missing, damaged, names an image twice or names classes by index.
    """
    if path.suffix == ".txt":
        return _read_list(path)
    if path.suffix == ".csv":
        return _read_solution(_text(path), path)
    if path.is_dir() and (path / SOLUTION).is_file():
        return _read_solution(_text(path / SOLUTION), path / SOLUTION)
    if is_zip(path):
        return _read_solution(_from_zip(path), path)
    wnids = read_ground_truth(path)
    return {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(wnids, 1)}


def _read_list(path: Path) -> dict[str, str]:
    """The class of every image of a list of lines `name wnid`."""
    classes: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or any("/" in word or word.startswith(".") for word in words):
            raise UserError(f"{path}: line {number}, {line[:80]!r}, is not 'name wnid'; correct it")
        if words[0] in classes:
            raise UserError(f"{path}: line {number} names {words[0]} again; keep one line per image")
        classes[words[0]] = words[1]
    if not classes:
        raise UserError(f"{path}: empty; write a line 'name wnid' per image")
    if all(map(str.isdecimal, classes.values())):
        # As Caffe's val.txt has it, and others that count classes in another order.
        raise UserError(
            f"{path}: name and index, not wnid: {' '.join(next(iter(classes.items())))!r}; which class an index means "
            "depends on who counted: write lines 'name wnid' (n01440764), or give ILSVRC2012_devkit_t12.tar.gz"
        )
    return classes


def _read_solution(text: str, path: Path) -> dict[str, str]:
    """The class of every image of Kaggle's list: lines `ImageId,wnid x y x y ...` with a box or more of this class."""
    classes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, boxes = line.strip().partition(",")
        if name == "ImageId" or not name:
            continue
        words = boxes.split()
        if not words or "/" in name or name[0] == "." or "/" in words[0] or words[0][0] == ".":
            raise UserError(
                f"{path}: line {number}, {line[:80]!r}, is not 'ImageId,wnid box'; give Kaggle's {SOLUTION}"
            )
        if f"{name}.JPEG" in classes:
            raise UserError(f"{path}: line {number} names {name} again; download it again")
        classes[f"{name}.JPEG"] = words[0]
    if not classes:
        raise UserError(f"{path}: names no image; give Kaggle's {SOLUTION}")
    return classes


def _text(path: Path) -> str:
    """Content of a text file, with or without a byte-order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error}); write lines 'name wnid' into it") from error


def _from_zip(path: Path) -> str:
    with open_zip(path) as archive:
        name = next((name for name in archive.namelist() if name.rpartition("/")[2] == SOLUTION), None)
        if name is None:
            raise UserError(f"{path}: no {SOLUTION} in it; give Kaggle's zip, that file, or the devkit")
        try:
            return archive.read(name).decode("utf-8-sig")
        except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: {name}: damaged ({error}); download it again") from error


def _devkit_files(devkit: Path) -> dict[str, bytes]:
    """The two files of the devkit, from the archive or the folder that it unpacks to."""
    texts: dict[str, bytes] = {}
    if devkit.is_dir():
        for name in ("meta.mat", GROUND_TRUTH):
            if file := next((file for file in sorted(devkit.rglob(name)) if file.is_file()), None):
                texts[name] = file.read_bytes()
    else:
        with open_tar(devkit, str(devkit), compressed=True) as tar:
            for member in files(tar, str(devkit)):
                name = flat_name(member)
                if name in ("meta.mat", GROUND_TRUTH):
                    texts[name] = read_member(tar, member, str(devkit))
    for name in ("meta.mat", GROUND_TRUTH):
        if name not in texts:
            raise UserError(f"{devkit}: no {name} in it; give the official ILSVRC2012_devkit_t12.tar.gz")
    return texts


def read_ground_truth(devkit: Path) -> list[str]:
    """The class of every validation image, from the devkit.

    Args:
        devkit: `ILSVRC2012_devkit_t12.tar.gz`, or the folder that it unpacks to.

    Returns:
        The WordNet ids of the images 1, 2, ...

    Raises:
        UserError: The devkit is missing, damaged, or its two files do not fit each other.
    """
    import scipy.io

    texts = _devkit_files(devkit)
    try:
        synsets = scipy.io.loadmat(io.BytesIO(texts["meta.mat"]), squeeze_me=True)["synsets"]
        # Inner nodes of the hierarchy have ids as well, but no images of their own.
        leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        numbers = [int(line) for line in texts[GROUND_TRUTH].split()]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{devkit}: meta.mat or {GROUND_TRUTH} not readable ({error}); download it again") from error
    for line, number in enumerate(numbers, 1):
        if number not in leaves:
            raise UserError(f"{devkit}: line {line} of {GROUND_TRUTH} names class {number}, which meta.mat lacks")
    wrong = next((wnid for wnid in leaves.values() if not wnid or "/" in wnid or wnid.startswith(".")), None)
    if wrong is not None:
        raise UserError(f"{devkit}: meta.mat names a class {wrong!r}; do not use this archive")
    return [leaves[number] for number in numbers]
