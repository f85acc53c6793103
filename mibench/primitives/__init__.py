"""What methods are made of: training, losses, latent optimisers, pools, students, populations."""
