"""What the scripts share; a script imports this folder and no other script."""
