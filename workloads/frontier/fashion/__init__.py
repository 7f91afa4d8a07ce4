"""Small photographs of clothes as what is to be made, instead of what is to be told apart."""
