"""What authors of training algorithms call beside `make bench`."""
