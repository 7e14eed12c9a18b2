"""A Subnet 72 (NATIX StreetVision) miner: it speaks the axon protocol to validators and asks a cascade."""
