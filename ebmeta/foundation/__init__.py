"""What every stage uses, such as checks of arguments, random generators and files that are written whole."""
