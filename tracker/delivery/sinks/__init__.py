"""One file for each kind of destination, and what all of them share."""
