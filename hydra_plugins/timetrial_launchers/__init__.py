"""Where the studies of a bench run: Hydra launchers on joblib, Ray and submitit. Hydra finds them by this place."""
