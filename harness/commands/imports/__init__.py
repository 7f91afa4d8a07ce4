"""What others have measured, as tables that every board can show."""
