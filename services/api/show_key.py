"""`qcrd key` in the gateway's container: prints a key that the gateway takes.

The image has no other command of `qcrd`; the whole command line is installed where it is used.
"""

from __future__ import annotations

import sys

from qcrd.runtime.settings import load_settings
from services.api.settings import ApiSettings


def main(arguments: list[str]) -> None:
    if arguments != ["key"]:
        raise SystemExit(
            "only `qcrd key` is in this image; for the other commands install qcrd where you work, "
            "and set QCRD_API_URL and QCRD_API_KEY"
        )
    keys = load_settings(ApiSettings).keys
    if not keys:
        raise SystemExit(
            "QCRD_API_KEYS is not set here, and of the keys in QCRD_API_KEYS_FILE only hashes are "
            "kept: `qcrd keys new NAME --file FILE` makes another"
        )
    print(keys[0].get_secret_value())


if __name__ == "__main__":
    main(sys.argv[1:])
