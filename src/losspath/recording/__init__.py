"""From a training loop to states on disk, and back: the recorder, the store and the trajectory."""
