"""The download of one artifact: the retry loop, attempts, partials, and their hand-over."""
