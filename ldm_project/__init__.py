"""2D and 3D latent diffusion models of CT: trained, sampled, and measured."""
