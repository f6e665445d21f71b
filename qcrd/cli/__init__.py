"""The `qcrd` command: the embedded stack, and a client of the gateway's REST API."""
