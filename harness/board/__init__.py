"""Ways to show a leaderboard: terminal, Markdown, HTML."""
