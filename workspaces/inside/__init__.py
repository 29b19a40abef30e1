"""What runs inside a workspace: standard library only, Python 3.9 and later, started by `workspaces/program.py`."""
