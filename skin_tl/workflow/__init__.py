"""Workflow: the steps that the Snakefile calls, and the start of a study from the command line."""
