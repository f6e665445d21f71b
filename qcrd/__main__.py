"""`qcrd`, also as `python -m qcrd`: the command line, or what it takes to have it."""

from __future__ import annotations

import sys

from qcrd.cli.install_hint import describe_missing


def main() -> None:
    try:
        from qcrd.cli.main import app
    except ModuleNotFoundError as error:
        if (told := describe_missing(error.name)) is None:
            raise
        sys.exit(f"error: {told}")
    app()


if __name__ == "__main__":
    main()
