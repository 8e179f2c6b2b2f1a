"""Other projects' own benchmarks, unmodified, with hybridloop in the place of their loop."""
