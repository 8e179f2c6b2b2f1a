"""Real servers and clients, unchanged, on the event loop under test."""
