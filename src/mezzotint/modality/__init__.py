"""What differs between modalities, one file each; everything else asks `modality_of`."""
