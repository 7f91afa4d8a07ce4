"""What a submission may ask of forward passes: that they agree, what goes into a layer, labels beside the outputs."""
