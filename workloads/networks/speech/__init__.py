"""Networks that read speech."""
