"""The command line: one module of `slimclr.commands` per subcommand, which imports what is heavy when it runs."""

import argparse
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from slimclr import __version__
from slimclr.engine.preemption import Preempted, exit_code, stoppable
from slimclr.errors import UserError, exhausted, printable, refusal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit code: 0, 2 when the user can mend something, 75 when the run was asked to stop and is to be run again.
    """
    own = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if own:
        threading.excepthook = _tell
    try:
        with stoppable(last=own) as request:
            try:
                return _run(arguments)
            except Exception:
                if not request.signal:
                    raise
            # What breaks once a stop is under way, such as the connection to a process that has ended, comes from it.
            raise Preempted(f"asked to stop ({request.signal}) and stopped; run this stage again")
    except Preempted as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"slimclr {next(iter(arguments), '')}: {error}", file=sys.stderr)
        return exit_code()


def _run(arguments: list[str]) -> int:
    # Only now, as it takes a moment in which a signal may come.
    from slimclr.commands import COMMANDS

    options = _parser(COMMANDS).parse_args(arguments)
    try:
        return COMMANDS[options.command].run(options, arguments) or 0
    except UserError as error:
        for line in str(error).splitlines():
            print(f"slimclr {options.command}: error: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `slimclr ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        refused = short = exhausted(error)
        if short:
            # What was half made then cannot be taken down in order either.
            sys.unraisablehook = lambda _: None
        elif isinstance(error, OSError):
            refused = refusal(error, _written(options))
        if refused is None:
            raise
        print(f"slimclr {options.command}: error: {printable(refused)}", file=sys.stderr)
        return 2
    return 0


def _tell(failed: threading.ExceptHookArgs) -> None:
    """What a thread failed with, unless the disk refused it: that is told by who waits for the thread."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _parser(known: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimclr", description="Slimmable self-supervised learning, stage by stage.")
    parser.add_argument("--version", action="version", version=f"slimclr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in known.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    return parser


def _written(options: argparse.Namespace) -> list[Path]:
    """Where this subcommand writes."""
    paths = (getattr(options, name, None) for name in ("out", "lmdb", "checkpoints"))
    return [path for path in paths if path is not None]
