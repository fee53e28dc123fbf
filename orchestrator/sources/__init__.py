"""The sources of files: HTTP requests to them, proxies, CA bundles, tokens, and which source is fastest."""
