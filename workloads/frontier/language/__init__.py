"""Networks that read text: what goes on inside one, and texts in several languages."""
