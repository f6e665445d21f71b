"""The frozen vocabulary: what crosses a process boundary, and nothing that computes.

Every record refuses unknown keys, so a misspelt key in a job's spec is reported with its path
instead of being ignored. `method` and `runtime` both speak these types; neither knows the other.
"""
