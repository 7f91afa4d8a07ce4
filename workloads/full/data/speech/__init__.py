"""LibriSpeech: its files, and the features that AlgoPerf makes of its sound."""
