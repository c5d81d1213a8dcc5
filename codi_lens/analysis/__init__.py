"""What is concluded from sweeps and from models: aggregates, comparison, latent ablation, lenses."""
