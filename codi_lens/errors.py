"""The one exception that stands for a mistake in what the user gave."""


class UserError(ValueError):
    """Input that cannot be used: the message says what was asked, what was found, what would do.

    Command-line programs print it without a traceback and end with exit code 2.
    """
