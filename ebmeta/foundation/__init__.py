"""What every stage stands on: checks of arguments, numbers in any units, generators, files written whole."""
