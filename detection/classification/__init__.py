"""Classification, the other half of the paper: classifiers, their training, their views, image SVMs."""
