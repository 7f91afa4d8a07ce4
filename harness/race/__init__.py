"""One trial: referee and trainer, two processes and a clock. Nothing here knows of studies."""
