"""How cost grows: with the bytes, the ranks, the requests so far, and the items of a request."""
