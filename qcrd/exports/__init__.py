"""A published student in the forms that other runtimes read, each checked against the student."""
