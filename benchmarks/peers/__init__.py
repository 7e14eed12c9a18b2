"""The same model behind other servers, each written and tuned as its own documentation advises."""
