"""The pure floor: words, tables and rules. Standard library and pydantic only."""
