"""Everything that only a GPU can show, in ten minutes on a bare machine. Run by `make gpu-proof`; see __main__."""
