"""The unit that times are read in, and trials during which the machine changed its pace."""
