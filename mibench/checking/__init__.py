"""Does a method keep the contract? Checked on the smallest track, each line with what to do about it."""
