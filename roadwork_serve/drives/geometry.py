"""Distances and directions on the earth, and a plane around a place."""

from typing import overload

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_RADIUS_M = 6_371_008.8  # mean radius of the earth, IUGG


@overload
def distance_m(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float: ...
@overload
def distance_m(
    latitude: Floats, longitude: Floats, to_latitude: Floats | float, to_longitude: Floats | float
) -> Floats: ...
def distance_m(
    latitude: Floats | float, longitude: Floats | float, to_latitude: Floats | float, to_longitude: Floats | float
) -> Floats | float:
    """Return the distance between points in degrees, in metres, on a sphere (haversine)."""
    here, there = np.radians(latitude), np.radians(to_latitude)
    across = np.radians(np.subtract(to_longitude, longitude))
    half = np.sin((there - here) / 2) ** 2 + np.cos(here) * np.cos(there) * np.sin(across / 2) ** 2
    return 2 * _RADIUS_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))


def bearing_deg(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Return the direction from one point to another in degrees, clockwise from north, 0 to 360."""
    here, there, across = np.radians((latitude, to_latitude, to_longitude - longitude))
    east = np.sin(across) * np.cos(there)
    north = np.cos(here) * np.sin(there) - np.sin(here) * np.cos(there) * np.cos(across)
    return float(np.degrees(np.arctan2(east, north)) % 360.0)


def turn_deg(direction: float, other: float) -> float:
    """Return the angle between two directions in degrees, 0 to 180."""
    return abs((direction - other + 180.0) % 360.0 - 180.0)


def to_plane(latitudes: Floats, longitudes: Floats, latitude: float, longitude: float) -> Floats:
    """Return metres east and north [n, 2] of a place. Good to a thousandth within 50 km, away from the poles."""
    east = (longitudes - longitude + 180.0) % 360.0 - 180.0
    metres = np.radians(1.0) * _RADIUS_M
    return np.stack([east * metres * np.cos(np.radians(latitude)), (latitudes - latitude) * metres], -1)
