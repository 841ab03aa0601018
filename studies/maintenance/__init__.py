"""What killed processes left behind: found, closed, sent."""
