"""Signals that antennas and sensors send and measure, and shapes and pictures learned as fields."""
