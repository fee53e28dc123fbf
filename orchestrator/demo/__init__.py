"""`orch demo`, and the loopback origin with faults on demand, which the tests and the benchmarks use too."""
