"""Image classification, the other half of the paper: classifiers, their training, views, image SVMs."""
