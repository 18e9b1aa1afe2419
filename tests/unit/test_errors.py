"""What the machine lacks, as libraries say it, is one line."""

import errno
import os

import pytest

from slimclr.errors import exhausted


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; give this stage more"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory (Def",
        ),
        (RuntimeError("can't start new thread"), "out of memory (can't start new thread)"),
        (
            RuntimeError("unable to resize file </torch_1_2_0> to the right size"),
            "/dev/shm has no",
        ),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory ("),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/a"), "files may be open; raise that with 'ulimit -n'"),
        (
            RuntimeError("Too many open files. Communication with the workers"),
            "files may be open",
        ),
    ],
)
def test_what_is_short_is_one_line(error, said):
    line = exhausted(error)
    assert said in line
    assert line.isprintable()


def test_it_is_found_behind_what_it_led_to():
    error = ImportError("a module cannot be loaded")
    error.__cause__ = MemoryError()
    assert "out of memory" in exhausted(error)


def test_other_errors_are_defects():
    assert exhausted(ValueError("7 is no width")) is None
    assert exhausted(OSError(errno.ENOENT, "no such file", "/a")) is None
