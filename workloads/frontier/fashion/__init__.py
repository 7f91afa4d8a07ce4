"""Small photographs of clothes: networks that make them of noise, and what trained ones are told or made to forget."""
