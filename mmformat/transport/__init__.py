"""Send and receive, put and get: a message here becomes the same message there."""
