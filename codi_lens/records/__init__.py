"""What is on disk: the journal of a run in progress, the finished record, and the code that reads both."""
