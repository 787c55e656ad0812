"""From a layer's blob to a staged tree, and from layers to an image's flat tree."""
