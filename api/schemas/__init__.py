"""What the API takes and gives: bodies in, representations out, one module a noun."""
