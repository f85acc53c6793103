"""Published weights: reading their files without running them, fitting them to our networks, keeping them."""
