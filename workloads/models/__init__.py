"""What workloads with one kind of model share, the small one and the large: its sizes, as options. Knows no data."""
