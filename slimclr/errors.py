"""The one exception that the command line turns into a single line."""


class UserError(ValueError):
    """Something the user can mend: bad input, a missing file, an impossible setting.

    The message is one line that says what is wrong, where, and how to mend it. `slimclr.cli` prints it without a
    traceback and exits with code 2; every other exception is a defect of ours and keeps its traceback.
    """
