"""Commands that check what a row or a submission claims."""
