"""Tasks whose features were planted, so that it is known what a training algorithm should have found."""
