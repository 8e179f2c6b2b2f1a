"""What the tests of several folders share: protocols, peers, addresses, fixtures."""
