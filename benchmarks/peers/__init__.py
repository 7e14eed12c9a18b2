"""The same model behind other servers, each written and tuned as its documentation recommends."""
