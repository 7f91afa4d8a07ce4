"""A world of finitely many points, in which the best denoiser is known exactly."""
