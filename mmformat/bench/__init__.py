"""One message by every method: size, encode, decode, and the fan-out to N ranks."""
