"""One handler per step of the contract's table."""
