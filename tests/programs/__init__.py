"""Programs and libraries that many people run, on the loop under test, with real servers."""
