"""Which samples there are: folders, the layout rule, and samples that belong together."""
