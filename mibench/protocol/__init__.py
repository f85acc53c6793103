"""What is measured and how one asks for it: tracks, suites, grid files, methods and their parameters. No torch."""
