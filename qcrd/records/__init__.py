"""Immutable records exchanged between processes, without any computation.

Every record rejects unknown keys, so a misspelt key in a job's spec is reported with its path.
`method` and `runtime` both use these types and do not depend on each other.
"""
