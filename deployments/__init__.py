"""The Ray Serve deployments: application, ingress, stage and journal replicas. The only package that imports Ray."""
