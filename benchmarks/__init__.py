"""Measures orch against the programs that one would use by hand, in the same run, on this machine alone."""
