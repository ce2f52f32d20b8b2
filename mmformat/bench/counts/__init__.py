"""What an operation does, not how long it takes: bytes copied, memory, calls, instructions."""
