"""The provider port, its providers, and the program that runs inside a workspace."""
