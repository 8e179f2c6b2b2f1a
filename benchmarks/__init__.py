"""Benchmarks of asyncio event loops; see README.md."""
