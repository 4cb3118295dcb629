# Stand-in for Slicer's packaging step: an installed tree is all that the tests look at, so nothing is packed.
