"""What scripts/benchmark.py measures, and with what: the workload, its checks, the databases, and a module per peer."""
