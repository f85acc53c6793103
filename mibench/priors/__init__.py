"""GAN recipes: the generative models that attacks search. One recipe per file, file name = registry id."""
