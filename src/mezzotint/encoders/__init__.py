"""What is trained: networks that map a batch to one feature vector a sample."""
