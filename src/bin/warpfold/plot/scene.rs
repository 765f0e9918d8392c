//! A picture as shapes in pixels, before anything is drawn: so its layout can be tested, and one description gives SVG and PNG.

use std::path::Path;
use std::sync::Once;

use anyhow::{Context as _, anyhow};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontDesc, FontFamily, FontStyle, FontTransform, IntoTextStyle as _, RGBColor, register_font,
};

/// Pixels of the files for one pixel of the scene: plotters takes whole ones only, which show in thin lines.
const SCALE: f64 = 2.0;
/// What plotters calls the size of a font, for an em of one.
const SIZE_OF_EM: f64 = 1.24;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    /// For text, which is thin.
    pub fn darker(self) -> Colour {
        let dark = |part: u8| (f64::from(part) * 0.75) as u8;
        Colour(dark(self.0), dark(self.1), dark(self.2))
    }
}

/// From the upper left corner, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Rect {
    /// A square around a point.
    pub fn around(at: Point, radius: f64) -> Rect {
        Rect { left: at.x - radius, top: at.y - radius, right: at.x + radius, bottom: at.y + radius }
    }

    pub fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    pub fn contains(&self, other: &Rect) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }

    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }
}

/// Where a text begins, ends or has its middle; up and down it is always centred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Align {
    Left,
    Centre,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Font {
    /// In pixels an em.
    pub size: f64,
    pub is_bold: bool,
}

impl Font {
    pub fn of(size: f64) -> Font {
        Font { size, is_bold: false }
    }

    pub fn bold(size: f64) -> Font {
        Font { size, is_bold: true }
    }

    /// In DejaVu Sans, which is wider than most fonts that a viewer of the SVG may take for it.
    pub fn width(self, text: &str) -> f64 {
        // Whole pixels again: a big font says more about a small one.
        const FINE: f64 = 16.0;
        match self.described(FINE).box_size(text) {
            Ok((width, _)) => f64::from(width) / FINE,
            // Never with the fonts that are registered here.
            Err(_) => text.chars().count() as f64 * self.size,
        }
    }

    fn described(self, scale: f64) -> FontDesc<'static> {
        register_fonts();
        let style = if self.is_bold { FontStyle::Bold } else { FontStyle::Normal };
        FontDesc::new(FontFamily::SansSerif, self.size * SIZE_OF_EM * scale, style)
    }
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // They fail for what is no font only.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font("sans-serif", FontStyle::Bold, dejavu::sans::bold());
    });
}

#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Line { points: Vec<Point>, colour: Colour, width: f64 },
    Polygon { points: Vec<Point>, colour: Colour, opacity: f64 },
    Circle { at: Point, radius: f64, colour: Colour, width: f64 },
    Disc { at: Point, radius: f64, colour: Colour },
    Text { at: Point, text: String, font: Font, align: Align, colour: Colour, is_upward: bool },
}

/// Shapes, from the lowest to the topmost.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub width: f64,
    pub height: f64,
    pub shapes: Vec<Shape>,
}

impl Scene {
    pub fn new(width: f64, height: f64) -> Scene {
        Scene { width, height, shapes: Vec::new() }
    }

    pub fn line(&mut self, points: Vec<Point>, colour: Colour, width: f64) {
        self.shapes.push(Shape::Line { points, colour, width });
    }

    /// A line of strokes and gaps of these lengths, or a whole one.
    pub fn dashed(&mut self, points: &[Point], colour: Colour, width: f64, dash: Option<(f64, f64)>) {
        let Some((stroke, gap)) = dash else {
            return self.line(points.to_vec(), colour, width);
        };
        for piece in dashes(points, stroke, gap) {
            self.line(piece, colour, width);
        }
    }

    pub fn polygon(&mut self, points: Vec<Point>, colour: Colour, opacity: f64) {
        self.shapes.push(Shape::Polygon { points, colour, opacity });
    }

    pub fn rect(&mut self, rect: Rect, colour: Colour, opacity: f64) {
        let Rect { left, top, right, bottom } = rect;
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
        self.polygon(corners.into_iter().map(|(x, y)| Point { x, y }).collect(), colour, opacity);
    }

    pub fn circle(&mut self, at: Point, radius: f64, colour: Colour, width: f64) {
        self.shapes.push(Shape::Circle { at, radius, colour, width });
    }

    pub fn disc(&mut self, at: Point, radius: f64, colour: Colour) {
        self.shapes.push(Shape::Disc { at, radius, colour });
    }

    pub fn text(&mut self, at: Point, text: impl Into<String>, font: Font, align: Align, colour: Colour) {
        self.shapes.push(Shape::Text { at, text: text.into(), font, align, colour, is_upward: false });
    }

    /// A text that reads from below, with its middle at the point.
    pub fn upward_text(&mut self, at: Point, text: impl Into<String>, font: Font, colour: Colour) {
        let align = Align::Centre;
        self.shapes.push(Shape::Text { at, text: text.into(), font, align, colour, is_upward: true });
    }

    /// The SVG's text.
    pub fn svg(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let size = self.pixels();
        // SVG places a text's first line 0.76 em below its upper end.
        self.draw(SVGBackend::with_string(&mut text, size), 0.76)?;
        // The coordinates stay fine; shown at its natural size, the picture is as large as the scene.
        let fine = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
        Ok(text.replacen(&fine, &format!("width=\"{}\" height=\"{}\"", self.width.ceil(), self.height.ceil()), 1))
    }

    pub fn write_png(&self, path: &Path) -> anyhow::Result<()> {
        // plotters places the baseline half of its size below.
        self.draw(BitMapBackend::new(path, self.pixels()), 0.5 * SIZE_OF_EM)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Of the files.
    pub fn pixels(&self) -> (u32, u32) {
        ((self.width.ceil() * SCALE) as u32, (self.height.ceil() * SCALE) as u32)
    }

    /// `baseline` is where the back end puts it, in ems below the place that it is given.
    fn draw<B: DrawingBackend>(&self, backend: B, baseline: f64) -> anyhow::Result<()> {
        register_fonts();
        let area = backend.into_drawing_area();
        area.fill(&RGBColor(255, 255, 255)).map_err(|error| anyhow!("{error}"))?;
        for shape in &self.shapes {
            shape.draw(&area, baseline).map_err(|error| anyhow!("{error}"))?;
        }
        area.present().map_err(|error| anyhow!("{error}"))
    }

    /// What a text covers.
    #[cfg(test)]
    pub fn text_boxes(&self) -> Vec<(String, Rect)> {
        let boxes = self.shapes.iter().filter_map(|shape| match shape {
            Shape::Text { at, text, font, align, is_upward, .. } => {
                let (width, half) = (font.width(text), font.size * 0.5);
                let start = match align {
                    Align::Left => 0.0,
                    Align::Centre => -width / 2.0,
                    Align::Right => -width,
                };
                let rect = if *is_upward {
                    Rect { left: at.x - half, right: at.x + half, top: at.y + start, bottom: at.y + start + width }
                } else {
                    Rect { left: at.x + start, right: at.x + start + width, top: at.y - half, bottom: at.y + half }
                };
                Some((text.clone(), rect))
            }
            _ => None,
        });
        boxes.collect()
    }
}

impl Shape {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        baseline: f64,
    ) -> Result<(), plotters::drawing::DrawingAreaErrorKind<B::ErrorType>> {
        let rgb = |colour: &Colour| RGBColor(colour.0, colour.1, colour.2);
        let all = |points: &[Point]| points.iter().map(|point| pixel(*point)).collect::<Vec<_>>();
        match self {
            Shape::Line { points, colour, width } => {
                area.draw(&PathElement::new(all(points), rgb(colour).stroke_width(stroke(*width))))
            }
            Shape::Polygon { points, colour, opacity } => {
                area.draw(&Polygon::new(all(points), rgb(colour).mix(*opacity).filled()))
            }
            Shape::Circle { at, radius, colour, width } => {
                let style = rgb(colour).stroke_width(stroke(*width));
                area.draw(&Circle::new(pixel(*at), (radius * SCALE).round() as u32, style))
            }
            Shape::Disc { at, radius, colour } => {
                area.draw(&Circle::new(pixel(*at), (radius * SCALE).round() as u32, rgb(colour).filled()))
            }
            Shape::Text { at, text, font, align, colour, is_upward } => {
                let horizontal = match align {
                    Align::Left => HPos::Left,
                    Align::Centre => HPos::Center,
                    Align::Right => HPos::Right,
                };
                // Capitals of DejaVu Sans are 0.73 em high; the place is in their middle.
                let up = (baseline - 0.365) * font.size;
                let (at, turn) = if *is_upward {
                    (Point { x: at.x - up, y: at.y }, FontTransform::Rotate270)
                } else {
                    (Point { x: at.x, y: at.y - up }, FontTransform::None)
                };
                let colour = rgb(colour);
                let style = font.described(SCALE).transform(turn).into_text_style(area).color(&colour);
                area.draw(&Text::new(text.as_str(), pixel(at), style.pos(Pos::new(horizontal, VPos::Top))))
            }
        }
    }
}

fn pixel(point: Point) -> (i32, i32) {
    ((point.x * SCALE).round() as i32, (point.y * SCALE).round() as i32)
}

fn stroke(width: f64) -> u32 {
    ((width * SCALE).round() as u32).max(1)
}

/// The strokes of a dashed line, which goes on around corners.
fn dashes(points: &[Point], stroke: f64, gap: f64) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let (mut is_on, mut left) = (true, stroke);
    let mut piece: Vec<Point> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.x - from.x).hypot(to.y - from.y);
            if length <= left {
                left -= length;
                if is_on {
                    piece.push(to);
                }
                break;
            }
            let share = left / length;
            from = Point { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share };
            if is_on {
                if piece.last() != Some(&from) {
                    piece.push(from);
                }
                pieces.push(std::mem::take(&mut piece));
                left = gap;
            } else {
                piece = vec![from];
                left = stroke;
            }
            is_on = !is_on;
        }
    }
    if is_on && piece.len() > 1 {
        pieces.push(piece);
    }
    pieces
}

/// The text in lines that are no wider than this, broken at spaces.
pub fn wrapped(text: &str, font: Font, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if font.width(&format!("{line} {word}")) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_cover_their_share_of_the_line_and_go_around_corners() {
        let at = |x, y| Point { x, y };
        let pieces = dashes(&[at(0.0, 0.0), at(10.0, 0.0), at(10.0, 10.0)], 4.0, 2.0);
        assert_eq!(pieces[0], [at(0.0, 0.0), at(4.0, 0.0)]);
        // The second one spans 6..10, exactly up to the corner; the third begins 2 below it.
        assert_eq!(pieces[1], [at(6.0, 0.0), at(10.0, 0.0)]);
        assert_eq!(pieces[2], [at(10.0, 2.0), at(10.0, 6.0)]);
        assert_eq!(pieces.last().map(Vec::len), Some(2));
        let around = dashes(&[at(0.0, 0.0), at(3.0, 0.0), at(3.0, 5.0)], 4.0, 10.0);
        assert_eq!(around, [[at(0.0, 0.0), at(3.0, 0.0), at(3.0, 1.0)]]);
    }

    #[test]
    fn text_is_broken_where_it_gets_too_wide() {
        let font = Font::of(12.0);
        let lines = wrapped("one two three four five six seven", font, 80.0);
        assert!(lines.len() > 1, "{lines:?}");
        assert!(lines.iter().all(|line| font.width(line) <= 80.0), "{lines:?}");
        assert_eq!(lines.join(" "), "one two three four five six seven");
        // A word that is wider than all has its line all the same.
        assert_eq!(wrapped("incomprehensibilities", font, 20.0), ["incomprehensibilities"]);
    }

    #[test]
    fn bold_text_is_wider_and_width_grows_with_the_font() {
        assert!(Font::bold(12.0).width("warpfold") > Font::of(12.0).width("warpfold"));
        let ratio = Font::of(24.0).width("warpfold") / Font::of(12.0).width("warpfold");
        assert!((ratio - 2.0).abs() < 0.05, "{ratio}");
    }
}
