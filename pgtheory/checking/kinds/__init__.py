"""One file for each kind of check: what is right, on which cases, and the known mistakes; found by themselves."""
