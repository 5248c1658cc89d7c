"""What must hold, written without the code that it checks."""
