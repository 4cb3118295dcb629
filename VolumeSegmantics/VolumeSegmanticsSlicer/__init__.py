"""The Slicer side of VolumeSegmantics: the one package that may know slicer, vtk, qt and ctk."""
