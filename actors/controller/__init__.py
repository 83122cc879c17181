"""The controller: the picture of the cluster, what is decided from it (pure), and the actor that commits it."""
