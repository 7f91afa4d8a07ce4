"""What a submission sees. Nothing here knows of referees."""
