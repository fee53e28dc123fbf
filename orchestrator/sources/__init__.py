"""Where bytes come from: one look at a source, proxies, CA bundles."""
