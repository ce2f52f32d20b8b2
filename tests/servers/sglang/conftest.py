"""The stand-in for sgl_kernel is for the server's processes, not for the test run."""

collect_ignore = ["stubs"]
