//! What pictures have around their panels: title, what was measured where, legend.

use super::record::Source;
use super::scene::{Align, Colour, Font, Point, Rect, Scene, wrapped};
use super::style::{self, BLACK, FILLS, Fill, GREY};

/// Left and right of everything.
pub const MARGIN: f64 = 20.0;

/// What stands before a line of the legend.
#[derive(Clone, Debug, PartialEq)]
pub enum Swatch {
    Marker {
        index: usize,
        colour: Colour,
        fill: Fill,
    },
    Line {
        colour: Colour,
        dash: Option<(f64, f64)>,
        width: f64,
    },
    LineWithMarker {
        index: usize,
        colour: Colour,
        fill: Fill,
    },
    Bar(Colour),
    /// The mark of a ceiling across a bar.
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub swatch: Swatch,
    pub text: String,
}

const SWATCH: f64 = 30.0;
const ROW: f64 = 18.0;

/// Draws title and subtitles; returns where they end.
pub fn head(scene: &mut Scene, title: &str, sources: &[Source], fills: bool) -> f64 {
    let mut y = 24.0;
    scene.text(Point { x: MARGIN, y }, title, Font::bold(style::TITLE), Align::Left, BLACK);
    y += 22.0;
    let font = Font::of(style::SUBTITLE);
    for (source, fill) in sources.iter().zip(FILLS) {
        let mut x = MARGIN;
        if fills && sources.len() > 1 {
            style::marker(scene, Point { x: x + 5.0, y }, 0, 4.5, GREY, fill);
            x += 16.0;
        }
        for line in wrapped(&source.label, font, scene.width - MARGIN - x) {
            scene.text(Point { x, y }, line, font, Align::Left, GREY);
            y += 16.0;
        }
    }
    y
}

/// The height of the head of a picture of this width.
pub fn head_height(sources: &[Source], width: f64) -> f64 {
    // Drawn where nobody sees it.
    head(&mut Scene::new(width, 0.0), "", sources, true)
}

/// The legend's entries in columns as wide as the widest of them.
fn columns(entries: &[Entry], width: f64) -> (usize, f64) {
    let font = Font::of(style::TEXT);
    let widest = entries.iter().map(|entry| font.width(&entry.text)).fold(0.0, f64::max) + SWATCH + 26.0;
    ((((width - 2.0 * MARGIN) / widest) as usize).clamp(1, entries.len().max(1)), widest)
}

pub fn legend_height(entries: &[Entry], width: f64) -> f64 {
    let (abreast, _) = columns(entries, width);
    entries.len().div_ceil(abreast) as f64 * ROW
}

/// Draws the legend from `top` on, column by column.
pub fn legend(scene: &mut Scene, entries: &[Entry], top: f64) {
    let (abreast, step) = columns(entries, scene.width);
    let down = entries.len().div_ceil(abreast);
    for (index, entry) in entries.iter().enumerate() {
        let left = MARGIN + (index / down) as f64 * step;
        let y = top + (index % down) as f64 * ROW + ROW / 2.0;
        swatch(scene, &entry.swatch, left, y);
        scene.text(Point { x: left + SWATCH + 6.0, y }, &entry.text, Font::of(style::TEXT), Align::Left, BLACK);
    }
}

fn swatch(scene: &mut Scene, swatch: &Swatch, left: f64, y: f64) {
    let middle = Point { x: left + SWATCH / 2.0, y };
    let ends = [Point { x: left, y }, Point { x: left + SWATCH, y }];
    match *swatch {
        Swatch::Marker { index, colour, fill } => style::marker(scene, middle, index, 5.0, colour, fill),
        Swatch::Line { colour, dash, width } => scene.dashed(&ends, colour, width, dash),
        Swatch::LineWithMarker { index, colour, fill } => {
            scene.dashed(&ends, colour, 1.8, fill.dash());
            style::marker(scene, middle, index, 4.0, colour, fill);
        }
        Swatch::Bar(colour) => {
            scene.rect(Rect { left, right: left + SWATCH, top: y - 5.0, bottom: y + 5.0 }, colour, 1.0);
        }
        Swatch::Tick => {
            let x = middle.x;
            scene.line(vec![Point { x, y: y - 7.0 }, Point { x, y: y + 7.0 }], BLACK, 2.0);
        }
    }
}
