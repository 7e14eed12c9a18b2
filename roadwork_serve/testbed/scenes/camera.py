"""A pinhole camera over a flat, gently curving road."""

from dataclasses import dataclass, replace

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """Position and optics of the camera."""

    #: Picture size, pixels.
    width: int
    height: int
    #: Horizon as a fraction of the height.
    horizon: float
    #: Vanishing point of the road as a fraction of the width.
    centre: float
    #: Focal length as a fraction of the width.
    focal: float
    #: Height of the lens above the road, metres.
    above_m: float
    #: Lateral drift of the road, 1/metres: x grows by curve * z**2.
    curve: float

    def at(self, scale: float) -> "Camera":
        """Return the same view for a picture of another size."""
        return replace(self, width=max(16, round(self.width * scale)), height=max(16, round(self.height * scale)))

    def per_metre(self, z: float) -> float:
        """Return pixels per metre at distance z metres."""
        return self.focal * self.width / z

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Return the pixel of a point x metres to the right, y metres above the road, z metres ahead."""
        scale = self.per_metre(z)
        sx = self.centre * self.width + (x + self.curve * z * z) * scale
        return sx, self.horizon * self.height + (self.above_m - y) * scale

    def box(self, x: float, y: float, z: float, height_m: float, aspect: float) -> Box:
        """Return the pixel box of an upright thing at (x, y, z), not clipped."""
        sx, sy = self.project(x, y, z)
        tall = height_m * self.per_metre(z)
        return sx - tall * aspect / 2, sy - tall, sx + tall * aspect / 2, sy

    def share(self, box: Box) -> Box:
        """Return a pixel box as fractions of the picture, clipped to it."""
        x0, y0, x1, y1 = box
        w, h = self.width, self.height
        return (
            min(max(x0 / w, 0.0), 1.0),
            min(max(y0 / h, 0.0), 1.0),
            min(max(x1 / w, 0.0), 1.0),
            min(max(y1 / h, 0.0), 1.0),
        )
