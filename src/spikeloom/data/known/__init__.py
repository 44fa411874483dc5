"""What each data set is: where it comes from, its classes and splits. A row each."""
