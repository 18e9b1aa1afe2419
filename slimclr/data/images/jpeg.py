"""Whether the markers of a JPEG are in order, without decoding it.

libjpeg decodes noise within the compressed data as pixels until it meets an unexpected marker: there the image ends,
and further reading fails. Pillow then refuses the image; DALI returns the pixels decoded so far, with the rest grey.
"""

import re

_START_OF_SCAN, _END = 0xDA, 0xD9
# Frames (baseline, extended, progressive), tables, restart interval, scan, application's data and comments.
_SEGMENTS = {0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, _START_OF_SCAN, 0xFE, *range(0xE0, 0xF0)}
_FRAMES = {0xC0, 0xC1, 0xC2}
# Within a scan FF 00 stands for the value FF, FF D0 to FF D7 are restarts, and further FFs may come before a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def markers_in_order(data: bytes) -> bool:
    """Whether a JPEG goes from its beginning, segment by segment and scan by scan, to its end.

    What comes behind the end counts for nothing. An image out of order may still decode: ask a decoder.

    Args:
        data: The file's content.
    """
    at, frames, scans = 2, 0, 0
    while data[at : at + 1] == b"\xff":
        code = data[at + 1] if at + 1 < len(data) else 0
        if code == 0xFF:
            at += 1
            continue
        if code == _END:
            return scans > 0
        frames += code in _FRAMES
        if code not in _SEGMENTS or frames > 1:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if code == _START_OF_SCAN:
            scans += 1
            marker = _MARKER.search(data, at)
            if marker is None:
                return False
            at = marker.start()
    return False
