"""Where a submission stands on a board that others have made, on other machines: which board fits, and which place."""
