"""What is kept of runs, and the page that shows them."""
