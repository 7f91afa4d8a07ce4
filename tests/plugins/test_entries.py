"""What a workload's content hash covers: the modules that make its data, model and metrics."""

from __future__ import annotations

from harness.plugins.entries import source_of


def test_the_source_of_a_workload_holds_its_module_and_those_that_it_needs():
    source = source_of("workloads.kjv_char_lm.KjvCharLm")
    for words in ("class KjvCharLm(", "class DecoderTransformer(", "class Wheel("):
        assert words in source
    assert "class DigitsMlp(" not in source
    assert "class Workload(" not in source, "the vocabulary is the harness's, whose revision every row names"
