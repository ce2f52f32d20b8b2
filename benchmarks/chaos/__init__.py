"""Kill ranks and producers at random while requests flow, and hold every byte to its digest."""
