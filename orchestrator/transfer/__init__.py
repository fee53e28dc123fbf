"""The effort for one artifact: loop, attempts, what is held of it, and how it changes hands."""
