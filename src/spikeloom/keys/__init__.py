"""What a computation depends on, as a key: the code that runs, and every value that it reads."""
