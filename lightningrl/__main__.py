"""`python -m lightningrl`: the command line."""

from lightningrl.cli.app import app

if __name__ == "__main__":
    app(prog_name="lightningrl")
