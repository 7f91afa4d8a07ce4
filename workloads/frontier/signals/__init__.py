"""Signals that antennas and sensors send and measure."""
