//! The roofline: what operations reach, against what memory and arithmetic allow at their intensity.

use super::axis::{Axis, Frame, rate};
use super::labels::{self, Wish};
use super::page::{self, Entry, MARGIN, Swatch};
use super::record::{Kind, Line, Source, Unit, distinct};
use super::scene::{Align, Colour, Font, Point, Rect, Scene};
use super::style::{self, BLACK, FILLS, Fill, GREY};

const WIDTH: f64 = 960.0;
const PANEL_HEIGHT: f64 = 540.0;
const RADIUS: f64 = 5.0;
/// Of the sizes of a sweep, which have pictures of their own and no label here.
const SMALL_RADIUS: f64 = 2.2;
const LABEL_HEIGHT: f64 = 13.0;

/// An operation as a point.
struct Mark<'a> {
    line: &'a Line,
    source: usize,
    /// In GFLOP/s, also where the record counts bytes.
    giga: f64,
    intensity: f64,
}

/// A ceiling as a line: flat at a rate, or a rate that memory allows at every intensity.
struct Roof {
    text: String,
    colour: Colour,
    width: f64,
    dash: Option<(f64, f64)>,
    /// GFLOP/s, or GB/s.
    giga: f64,
    is_bandwidth: bool,
}

impl Roof {
    fn at(&self, intensity: f64) -> f64 {
        if self.is_bandwidth { self.giga * intensity } else { self.giga }
    }
}

/// The picture, if there are operations with an intensity.
pub fn picture(sources: &[Source]) -> Option<Scene> {
    let marks = marks(sources);
    if marks.is_empty() {
        return None;
    }
    let roofs = roofs(sources);
    let unit = Unit::of_flop(marks.iter().map(|mark| mark.giga).fold(0.0, f64::max));
    let operations = distinct(marks.iter().map(|mark| mark.line.operation.as_str()));
    let entries = entries(&marks, &roofs, &operations, sources);

    let top = page::head_height(sources, WIDTH) + 10.0;
    let bottom = top + PANEL_HEIGHT;
    let legend_top = bottom + 52.0;
    let mut scene = Scene::new(WIDTH, legend_top + page::legend_height(&entries, WIDTH) + 14.0);
    page::head(&mut scene, "Roofline: rate over arithmetic intensity", sources, true);

    let (x, y) = axes(&marks, &roofs, unit);
    let frame = Frame { rect: Rect { left: 82.0, top, right: WIDTH - MARGIN, bottom }, x, y };
    frame.draw(&mut scene, "intensity (FLOP a byte that must move)", &format!("rate ({unit})"));
    let mut obstacles = Vec::new();
    for roof in &roofs {
        draw_roof(&mut scene, &frame, roof, &roofs, unit, &mut obstacles);
    }
    draw_marks(&mut scene, &frame, &marks, &operations, unit, &obstacles);
    page::legend(&mut scene, &entries, legend_top);
    Some(scene)
}

fn marks(sources: &[Source]) -> Vec<Mark<'_>> {
    let mut marks = Vec::new();
    for (source, of_source) in sources.iter().enumerate() {
        for line in of_source.lines.iter().filter(|line| line.kind == Kind::Operation) {
            if let Some(intensity) = line.intensity {
                let giga = if line.unit().is_bytes() { line.giga() * intensity } else { line.giga() };
                marks.push(Mark { line, source, giga, intensity });
            }
        }
    }
    marks
}

fn roofs(sources: &[Source]) -> Vec<Roof> {
    let mut roofs = Vec::new();
    for (source, fill) in sources.iter().zip(FILLS) {
        for line in source.lines.iter().filter(|line| line.kind == Kind::Ceiling) {
            let (giga, is_bandwidth) = (line.giga(), line.unit().is_bytes());
            let shown = Unit::of_flop(giga);
            let text = match is_bandwidth {
                true => format!("{}{}: {} GB/s", line.operation, source.number, rate(giga)),
                false => {
                    let rate = rate(giga / shown.in_giga());
                    format!("{} {}{}: {rate} {shown}", line.operation, line.dtype, source.number)
                }
            };
            let is_cache = is_bandwidth && line.operation != "copy";
            let (colour, width) = match (is_bandwidth, is_cache) {
                (true, false) => (BLACK, 1.8),
                (true, true) => (GREY, 1.4),
                (false, _) => (dtype_colour(&line.dtype), 1.8),
            };
            let dash = if is_cache && fill == Fill::Full { Some((3.0, 3.0)) } else { fill.dash() };
            roofs.push(Roof { text, colour, width, dash, giga, is_bandwidth });
        }
    }
    // Two that coincide must both be seen: the later ones get gaps.
    for index in 1..roofs.len() {
        let coincides = |other: &Roof| {
            other.is_bandwidth == roofs[index].is_bandwidth && (other.giga / roofs[index].giga).ln().abs() < 0.02
        };
        if roofs[index].dash.is_none() && roofs[..index].iter().any(coincides) {
            roofs[index].dash = Some((8.0, 8.0));
        }
    }
    roofs
}

/// The same for a type in every picture.
fn dtype_colour(dtype: &str) -> Colour {
    match ["f32", "bf16", "f16"].iter().position(|known| *known == dtype) {
        Some(index) => style::colour(index),
        None => style::colour(3),
    }
}

fn axes(marks: &[Mark<'_>], roofs: &[Roof], unit: Unit) -> (Axis, Axis) {
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let mut intensity_min = least(&mut marks.iter().map(|mark| mark.intensity));
    let mut intensity_max = most(&mut marks.iter().map(|mark| mark.intensity));
    // Where memory stops to be what limits is part of the picture.
    let slopes: Vec<&Roof> = roofs.iter().filter(|roof| roof.is_bandwidth).collect();
    for flat in roofs.iter().filter(|roof| !roof.is_bandwidth) {
        for slope in &slopes {
            intensity_min = intensity_min.min(flat.giga / slope.giga);
            intensity_max = intensity_max.max(flat.giga / slope.giga);
        }
    }
    let (low, high) = (intensity_min / 2.0, intensity_max * 2.0);
    let slowest = least(&mut marks.iter().map(|mark| mark.giga));
    let limit = |intensity: f64| {
        let lowest_of = |is_bandwidth| {
            least(&mut roofs.iter().filter(|roof| roof.is_bandwidth == is_bandwidth).map(|roof| roof.at(intensity)))
        };
        lowest_of(true).min(lowest_of(false))
    };
    let bottom = slowest.min(limit(low)) / 1.6;
    let flat_max = roofs.iter().filter(|roof| !roof.is_bandwidth).map(|roof| roof.giga);
    let top = most(&mut marks.iter().map(|mark| mark.giga).chain(flat_max)) * 1.6;
    (Axis::log(low, high), Axis::log(bottom / unit.in_giga(), top / unit.in_giga()))
}

fn draw_roof(scene: &mut Scene, frame: &Frame, roof: &Roof, roofs: &[Roof], unit: Unit, obstacles: &mut Vec<Rect>) {
    let (mut from, mut to) = (frame.x.low, frame.x.high);
    if roof.is_bandwidth {
        // Up to the highest ceiling of arithmetic, and no further down than the panel goes.
        let flat_max = roofs.iter().filter(|other| !other.is_bandwidth).map(|other| other.giga).fold(0.0, f64::max);
        let flat_max = if flat_max > 0.0 { flat_max } else { frame.y.high * unit.in_giga() };
        from = from.max(frame.y.low * unit.in_giga() / roof.giga);
        to = to.min(flat_max / roof.giga);
    } else {
        // From where the fastest memory reaches it.
        let slopes = roofs.iter().filter(|other| other.is_bandwidth).map(|other| roof.giga / other.giga);
        from = slopes.fold(f64::INFINITY, f64::min).clamp(from, to);
        if !roofs.iter().any(|other| other.is_bandwidth) {
            from = frame.x.low;
        }
    }
    if from >= to {
        return;
    }
    let at = |intensity: f64| frame.at(intensity, roof.at(intensity) / unit.in_giga());
    let (start, end) = (at(from), at(to));
    scene.dashed(&[start, end], roof.colour, roof.width, roof.dash);
    // Labels keep off the line: small squares along it are in their way.
    let steps = ((end.x - start.x).hypot(end.y - start.y) / 4.0).ceil().max(1.0);
    for step in 0..=steps as usize {
        let share = step as f64 / steps;
        let x = start.x + (end.x - start.x) * share;
        obstacles.push(Rect::around(Point { x, y: start.y + (end.y - start.y) * share }, 2.0));
    }
}

/// What is written beside a mark: nothing beside the sizes of a sweep, and once for a problem that several devices have computed, or one
/// device in several types, which the colours tell apart.
fn label<'a>(mark: &Mark<'a>, marks: &[Mark<'a>]) -> Option<&'a str> {
    let before = marks.iter().take_while(|other| !std::ptr::eq(other.line, mark.line));
    let is_same = |other: &Mark<'_>| {
        let (a, b) = (other.line, mark.line);
        a.operation == b.operation && a.short_problem() == b.short_problem() && a.series.is_empty()
    };
    let is_first = !before.into_iter().any(is_same);
    (mark.line.series.is_empty() && is_first).then(|| mark.line.short_problem())
}

fn draw_marks(scene: &mut Scene, frame: &Frame, marks: &[Mark<'_>], operations: &[&str], unit: Unit, roofs: &[Rect]) {
    let at = |mark: &Mark<'_>| frame.at(mark.intensity, mark.giga / unit.in_giga());
    let font = Font::of(style::SMALL);
    // The same problem on several devices lies on one vertical line, which the first one's label names.
    for mark in marks {
        let first = marks.iter().find(|first| {
            let (a, b) = (first.line, mark.line);
            first.source < mark.source && (&a.operation, &a.dtype, &a.problem) == (&b.operation, &b.dtype, &b.problem)
        });
        if let Some(first) = first.filter(|_| mark.line.series.is_empty()) {
            scene.line(vec![at(first), at(mark)], dtype_colour(&mark.line.dtype), 0.6);
        }
    }
    let mut obstacles = roofs.to_vec();
    let mut wishes = Vec::new();
    for mark in marks {
        match label(mark, marks) {
            Some(text) => {
                let wish = Wish { at: at(mark), radius: RADIUS, width: font.width(text), height: LABEL_HEIGHT };
                wishes.push((mark, text, wish));
            }
            None => obstacles.push(Rect::around(at(mark), RADIUS)),
        }
    }
    let placed = labels::place(&wishes.iter().map(|(_, _, wish)| *wish).collect::<Vec<_>>(), &obstacles, frame.rect);
    for ((mark, _, wish), rect) in wishes.iter().zip(&placed) {
        if let Some(end) = rect.and_then(|rect| labels::leader(wish, &rect)) {
            scene.line(vec![wish.at, end], dtype_colour(&mark.line.dtype), 0.6);
        }
    }
    // Small ones first, so that none hides a labelled one.
    let radius = |mark: &Mark<'_>| if mark.line.series.is_empty() { RADIUS } else { SMALL_RADIUS };
    for wanted in [SMALL_RADIUS, RADIUS] {
        for mark in marks.iter().filter(|mark| radius(mark) == wanted) {
            let index = operations.iter().position(|operation| *operation == mark.line.operation).unwrap_or(0);
            let (colour, fill) = (dtype_colour(&mark.line.dtype), FILLS[mark.source]);
            style::marker(scene, at(mark), index, wanted, colour, fill);
        }
    }
    let mut missing = 0;
    for ((mark, text, _), rect) in wishes.iter().zip(&placed) {
        match rect {
            Some(rect) => {
                let place = Point { x: rect.left, y: (rect.top + rect.bottom) / 2.0 };
                scene.text(place, *text, font, Align::Left, dtype_colour(&mark.line.dtype).darker());
            }
            None => missing += 1,
        }
    }
    if missing > 0 {
        let place = Point { x: frame.rect.right, y: frame.rect.bottom + 34.0 };
        scene.text(place, format!("{missing} labels found no room"), font, Align::Right, GREY);
    }
}

fn entries(marks: &[Mark<'_>], roofs: &[Roof], operations: &[&str], sources: &[Source]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for roof in roofs {
        let swatch = Swatch::Line { colour: roof.colour, dash: roof.dash, width: roof.width };
        entries.push(Entry { swatch, text: roof.text.clone() });
    }
    for (index, operation) in operations.iter().enumerate() {
        let swatch = Swatch::Marker { index, colour: GREY, fill: Fill::Full };
        entries.push(Entry { swatch, text: (*operation).to_string() });
    }
    for dtype in distinct(marks.iter().map(|mark| mark.line.dtype.as_str())) {
        entries.push(Entry { swatch: Swatch::Bar(dtype_colour(dtype)), text: dtype.to_string() });
    }
    if sources.len() > 1 {
        for (source, fill) in sources.iter().zip(FILLS) {
            entries.push(Entry { swatch: Swatch::Marker { index: 0, colour: GREY, fill }, text: source.short.clone() });
        }
    }
    entries
}
