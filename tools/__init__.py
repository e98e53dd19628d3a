"""Every command of the project: `python -m tools.<name>`, or `mochi <name>`."""
