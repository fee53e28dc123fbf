"""The loopback origin that can be told to misbehave, and weight files made on the spot."""
