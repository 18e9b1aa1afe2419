"""One width of a trained detector as a folder that mmdet evaluates by itself."""

import time
from pathlib import Path

from slimclr.detection.kept_files import TENSORS, read_kept
from slimclr.exporting.detector import CHECKPOINT, CONFIG, write_detector
from slimclr.exporting.folder import refuse_to_overwrite, whole_folder
from slimclr.exporting.writer import size_of
from slimclr.files import sha256, write_json
from slimclr.provenance import provenance

ABOUT = "export.json"


def export_detector(detector: Path, out: Path, *, width: float, force: bool = False) -> None:
    """Write detector.pth, detector.py (mmdet's config) and export.json (where they come from).

    Args:
        detector: `detector.safetensors` of a transfer, or its folder.
        out: The folder.
        width: One of its widths.
        force: Replace an earlier export in `out`.

    Raises:
        UserError: Something is missing or does not fit, or `out` has other files; then nothing is written.
    """
    started = time.time()
    refuse_to_overwrite(out, exported=(out / ABOUT).is_file(), force=force)
    kept = read_kept(detector)
    with whole_folder(out) as part:
        backbone = write_detector(kept, width, part)
        about = {
            "run": kept.name,
            "width": width,
            "detector_sha256": sha256(kept.folder / TENSORS),
            "files": {name: sha256(part / name) for name in (CHECKPOINT, CONFIG)},
            "provenance": provenance(started),
        }
        write_json(part / ABOUT, about)
    channels = backbone.get("base_channels", 64)
    print(f"detector   run {kept.name}, width {width}: mmdet's ResNet-{backbone['depth']} of {channels} channels")
    print(f"written    {out}: {CONFIG}, {CHECKPOINT} {size_of((out / CHECKPOINT).stat().st_size)}")
    print(f"evaluate   python tools/test.py {out / CONFIG} {out / CHECKPOINT}  (mmdet's own script)")
