"""What two programs of the fleet must agree on: pydantic models and pure functions, no I/O."""
