"""Put verified files at their places: check what is allowed, link or copy, unpack archives."""
