//! Colours, markers and sizes: what stays apart in black and white and for eyes that see fewer colours.

use super::scene::{Colour, Point, Scene};

pub const BLACK: Colour = Colour(0x1a, 0x1a, 0x1a);
pub const GREY: Colour = Colour(0x6b, 0x6b, 0x6b);
pub const GRID: Colour = Colour(0xe2, 0xe2, 0xe2);
pub const WHITE: Colour = Colour(0xff, 0xff, 0xff);

/// Okabe and Ito's colours (2008), without yellow, which is too pale for lines.
pub const COLOURS: [Colour; 7] = [
    Colour(0x00, 0x72, 0xb2),
    Colour(0xd5, 0x5e, 0x00),
    Colour(0x00, 0x9e, 0x73),
    Colour(0xcc, 0x79, 0xa7),
    Colour(0xe6, 0x9f, 0x00),
    Colour(0x56, 0xb4, 0xe9),
    Colour(0x4d, 0x4d, 0x4d),
];

/// The colour of the line, bar or type of that index.
pub fn colour(index: usize) -> Colour {
    COLOURS[index % COLOURS.len()]
}

/// Sizes of text, in pixels an em.
pub const TITLE: f64 = 17.0;
pub const SUBTITLE: f64 = 12.0;
pub const TEXT: f64 = 12.0;
pub const SMALL: f64 = 10.5;

/// How a device's points and lines look; the colour says something else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Full,
    Hollow,
    Dotted,
}

/// More devices than these would not stay apart.
pub const FILLS: [Fill; 3] = [Fill::Full, Fill::Hollow, Fill::Dotted];

impl Fill {
    /// Lengths of strokes and gaps of its lines.
    pub fn dash(self) -> Option<(f64, f64)> {
        match self {
            Fill::Full => None,
            Fill::Hollow => Some((7.0, 4.0)),
            Fill::Dotted => Some((2.0, 3.0)),
        }
    }
}

/// Corners of the markers, in units of their radius; no corners mean a circle.
const SHAPES: [&[(f64, f64)]; 7] = [
    &[],
    &[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
    &[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
    &[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    &[
        (-0.4, -1.2),
        (0.4, -1.2),
        (0.4, -0.4),
        (1.2, -0.4),
        (1.2, 0.4),
        (0.4, 0.4),
        (0.4, 1.2),
        (-0.4, 1.2),
        (-0.4, 0.4),
        (-1.2, 0.4),
        (-1.2, -0.4),
        (-0.4, -0.4),
    ],
    &[(0.0, -1.25), (1.2, -0.35), (0.75, 1.05), (-0.75, 1.05), (-1.2, -0.35)],
];

/// Draws the marker of that index.
pub fn marker(scene: &mut Scene, at: Point, index: usize, radius: f64, colour: Colour, fill: Fill) {
    let corners: Vec<Point> = SHAPES[index % SHAPES.len()]
        .iter()
        .map(|(x, y)| Point { x: at.x + x * radius, y: at.y + y * radius })
        .collect();
    let inside = if fill == Fill::Full { colour } else { WHITE };
    if corners.is_empty() {
        scene.disc(at, radius, inside);
        scene.circle(at, radius, colour, 1.5);
    } else {
        scene.polygon(corners.clone(), inside, 1.0);
        let closed: Vec<Point> = corners.iter().chain(&corners[..1]).copied().collect();
        scene.line(closed, colour, 1.5);
    }
    if fill == Fill::Dotted {
        scene.disc(at, radius * 0.4, colour);
    }
}
