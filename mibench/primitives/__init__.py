"""What methods are made of: training, losses, latent optimisers and whole searches, pools, students, populations."""
