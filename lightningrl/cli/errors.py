"""What every verb of the command line does with errors: one message for people, and an exit code.

Exit codes: 0 done, 2 an error of the user's to mend, 75 interrupted with the state saved, 130 Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from lightningrl.errors import Interrupted, LightningRLError

EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_CTRL_C = 2, 75, 130


@contextmanager
def user_errors(*, resumes: bool = True) -> Iterator[None]:
    """Errors that are the user's to mend, or of a file, as one message, no traceback; exit codes as the module says.

    resumes: whether the verb goes on from a saved state when it is run again.
    """
    try:
        yield
    except Interrupted as error:
        typer.echo(f"interrupted: {error}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except LightningRLError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_USER_ERROR) from None
    except OSError as error:
        if error.filename is None:  # a closed pipe, say
            raise
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        again = "; run the same command again to resume" if resumes else ""
        typer.echo(f"stopped by Ctrl-C{again}", err=True)
        raise typer.Exit(EXIT_CTRL_C) from None
