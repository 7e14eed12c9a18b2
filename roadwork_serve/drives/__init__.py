"""From a drive to a map: long recordings and their tracks become segments with road work, and these become zones."""
