"""Readers of labeled datasets: folders, manifests, COCO, NATIX parquet, photo collections."""
