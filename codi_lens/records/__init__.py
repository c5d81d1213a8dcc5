"""What is on disk: the journal of a run as it goes, the record that it ends in, and reading both back."""
