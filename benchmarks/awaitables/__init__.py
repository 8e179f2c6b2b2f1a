"""Async functions in C and Rust, beside their peers: ``python -m benchmarks.awaitables``."""
