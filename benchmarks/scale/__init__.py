"""Rationale sets of a hundred thousand to ten million rationales, and the memory that a worker
takes for them."""
