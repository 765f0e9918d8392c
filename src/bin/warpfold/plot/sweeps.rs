//! Rates over sizes, a picture for each operation.

use super::axis::{Axis, Frame};
use super::page::{self, Entry, MARGIN, Swatch};
use super::record::{Kind, Line, Source, Unit, distinct, without};
use super::scene::{Align, Font, Point, Rect, Scene};
use super::style::{self, BLACK, COLOURS, FILLS, Fill, GREY, colour};

const PANEL_HEIGHT: f64 = 340.0;
const PANEL_WIDTH: f64 = 440.0;
/// Of a picture with one panel.
const WIDTH: f64 = 820.0;
/// Left of a panel, for the numbers and the title of its axis.
const LEFT: f64 = 72.0;
/// More lines than these in a panel are divided up by type.
const MOST_LINES: usize = 6;

/// A series of a device.
struct Curve<'a> {
    name: &'a str,
    dtype: &'a str,
    source: usize,
    /// By size.
    lines: Vec<&'a Line>,
}

/// A name for the file and the picture of each operation with sizes.
pub fn pictures(sources: &[Source]) -> Vec<(String, Scene)> {
    let mut pictures = Vec::new();
    let mut keys: Vec<(&str, bool)> = Vec::new();
    for line in swept(sources).map(|(_, line)| line) {
        let key = (line.operation.as_str(), line.unit().is_bytes());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    for &(operation, is_bytes) in &keys {
        let mut name = format!("{}_over_size", operation.replace(|letter: char| !letter.is_alphanumeric(), "_"));
        // One that is counted in both ways has two pictures.
        if is_bytes && keys.contains(&(operation, false)) {
            name.push_str("_in_bytes");
        }
        pictures.push((name, picture(operation, &curves(sources, operation, is_bytes), sources)));
    }
    pictures
}

fn swept(sources: &[Source]) -> impl Iterator<Item = (usize, &Line)> {
    let all = sources.iter().enumerate().flat_map(|(index, source)| source.lines.iter().map(move |line| (index, line)));
    all.filter(|(_, line)| line.kind == Kind::Operation && !line.series.is_empty() && line.size.is_some())
}

fn curves<'a>(sources: &'a [Source], operation: &str, is_bytes: bool) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve<'a>> = Vec::new();
    for (source, line) in swept(sources) {
        if line.operation == operation && line.unit().is_bytes() == is_bytes {
            let name = line.short_series();
            match curves.iter_mut().find(|curve| curve.name == name && curve.source == source) {
                Some(curve) => curve.lines.push(line),
                None => curves.push(Curve { name, dtype: &line.dtype, source, lines: vec![line] }),
            }
        }
    }
    for curve in &mut curves {
        curve.lines.sort_by(|a, b| a.size.unwrap_or(0.0).total_cmp(&b.size.unwrap_or(0.0)));
    }
    curves
}

fn picture(operation: &str, curves: &[Curve<'_>], sources: &[Source]) -> Scene {
    let is_bytes = curves[0].lines[0].unit().is_bytes();
    let lines = || curves.iter().flat_map(|curve| &curve.lines).copied();
    let highest = lines().map(|line| line.giga_at(line.p10_ms)).chain(lines().filter_map(Line::ceiling_giga));
    let max = highest.fold(0.0, f64::max);
    let unit = if is_bytes { Unit::GigaBytes } else { Unit::of_flop(lines().map(Line::giga).fold(0.0, f64::max)) };
    let sizes: Vec<f64> = lines().filter_map(|line| line.size).collect();

    let dtypes = distinct(curves.iter().map(|curve| curve.dtype));
    let is_divided = curves.len() > MOST_LINES && dtypes.len() > 1;
    // The panel says the type, and what is alike in two panels has one colour.
    let name_of = |curve: &Curve<'_>| match is_divided {
        true => without(curve.name, curve.dtype).to_string(),
        false => curve.name.to_string(),
    };
    let names = distinct(curves.iter().map(name_of));
    let index_of = |curve: &Curve<'_>| names.iter().position(|name| *name == name_of(curve)).unwrap_or(0);
    let panels: Vec<Vec<&Curve<'_>>> = if is_divided {
        dtypes.iter().map(|dtype| curves.iter().filter(|curve| curve.dtype == *dtype).collect()).collect()
    } else {
        vec![curves.iter().collect()]
    };
    let panel_width = if panels.len() > 1 { PANEL_WIDTH } else { WIDTH - LEFT - 2.0 * MARGIN };
    let width = MARGIN + panels.len() as f64 * (LEFT + panel_width) + MARGIN;
    let entries = entries(&names, sources);

    let heading = if panels.len() > 1 { 24.0 } else { 6.0 };
    let top = page::head_height(sources, width) + heading;
    let bottom = top + PANEL_HEIGHT;
    let legend_top = bottom + 52.0;
    let mut scene = Scene::new(width, legend_top + page::legend_height(&entries, width) + 14.0);
    page::head(&mut scene, &title(operation), sources, true);
    for (index, panel) in panels.iter().enumerate() {
        let left = MARGIN + LEFT + index as f64 * (LEFT + panel_width);
        let rect = Rect { left, top, right: left + panel_width, bottom };
        let frame = Frame { rect, x: Axis::sizes(&sizes), y: Axis::linear(max / unit.in_giga()) };
        frame.draw(&mut scene, axis_title(operation), &format!("rate ({unit})"));
        if panels.len() > 1 {
            let middle = Point { x: (rect.left + rect.right) / 2.0, y: top - 11.0 };
            scene.text(middle, panel[0].dtype, Font::bold(style::TEXT), Align::Centre, BLACK);
        }
        draw_ceilings(&mut scene, &frame, panel, unit, sources.len() > 1);
        draw_curves(&mut scene, &frame, panel, &index_of, unit);
    }
    page::legend(&mut scene, &entries, legend_top);
    scene
}

fn title(operation: &str) -> String {
    let words = operation.replace('_', " ").replace("rms", "RMS");
    let mut letters = words.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}: rate over size", letters.as_str())
}

fn axis_title(operation: &str) -> &'static str {
    if operation.starts_with("attention") { "sequence length (tokens)" } else { "size (columns of a row)" }
}

/// The ceilings of a panel, each once: most series of a type have the same.
fn draw_ceilings(scene: &mut Scene, frame: &Frame, panel: &[&Curve<'_>], unit: Unit, are_many: bool) {
    let mut drawn: Vec<(Vec<Point>, Vec<&str>, Fill)> = Vec::new();
    for curve in panel {
        let fill = if are_many { FILLS[curve.source] } else { Fill::Full };
        let mut points: Vec<Point> = Vec::new();
        for line in &curve.lines {
            if let (Some(size), Some(ceiling)) = (line.size, line.ceiling_giga()) {
                points.push(frame.at(size, ceiling / unit.in_giga()));
            }
        }
        let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else {
            continue;
        };
        // To the edges of the panel, and straight where it does not change.
        points.insert(0, Point { x: frame.rect.left, y: first.y });
        points.push(Point { x: frame.rect.right, y: last.y });
        let mut index = 1;
        while index + 1 < points.len() {
            match points[index - 1].y == points[index].y && points[index].y == points[index + 1].y {
                true => drop(points.remove(index)),
                false => index += 1,
            }
        }
        let is_same = |other: &[Point]| {
            other.len() == points.len() && other.iter().zip(&points).all(|(a, b)| (a.y - b.y).abs() < 1.0 && a.x == b.x)
        };
        match drawn.iter_mut().find(|(other, _, _)| is_same(other)) {
            Some((_, dtypes, _)) if dtypes.contains(&curve.dtype) => (),
            Some((_, dtypes, _)) => dtypes.push(curve.dtype),
            None => drawn.push((points, vec![curve.dtype], fill)),
        }
    }
    let mut used: Vec<f64> = Vec::new();
    for (points, dtypes, fill) in drawn {
        scene.dashed(&points, GREY, 1.3, Some(fill.dash().map_or((9.0, 5.0), |(stroke, _)| (stroke, 5.0))));
        let y = points[points.len() - 1].y - 8.0;
        // Names of ceilings that nearly coincide would cover each other.
        if used.iter().all(|other| (other - y).abs() > 12.0) && y > frame.rect.top + 4.0 {
            let text = format!("ceiling, {}", dtypes.join(" and "));
            scene.text(Point { x: frame.rect.right - 3.0, y }, text, Font::of(style::SMALL), Align::Right, GREY);
            used.push(y);
        }
    }
}

fn draw_curves(
    scene: &mut Scene,
    frame: &Frame,
    panel: &[&Curve<'_>],
    index_of: &dyn Fn(&Curve<'_>) -> usize,
    unit: Unit,
) {
    let points = |curve: &Curve<'_>, rate: &dyn Fn(&Line) -> f64| -> Vec<Point> {
        let at = |line: &&Line| Some(frame.at(line.size?, rate(line) / unit.in_giga()));
        curve.lines.iter().filter_map(at).collect()
    };
    // Bands below all lines.
    for curve in panel {
        let mut band = points(curve, &|line| line.giga_at(line.p90_ms));
        band.extend(points(curve, &|line| line.giga_at(line.p10_ms)).into_iter().rev());
        scene.polygon(band, colour(index_of(curve)), 0.16);
    }
    for curve in panel {
        let (index, fill) = (index_of(curve), FILLS[curve.source]);
        let medians = points(curve, &Line::giga);
        scene.dashed(&medians, colour(index), 1.8, fill.dash());
        for point in medians {
            // Markers go on where colours begin again, so that no two lines are alike.
            style::marker(scene, point, index + index / COLOURS.len(), 4.0, colour(index), fill);
        }
    }
}

fn entries(names: &[String], sources: &[Source]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let marker = index + index / COLOURS.len();
        let swatch = Swatch::LineWithMarker { index: marker, colour: colour(index), fill: Fill::Full };
        entries.push(Entry { swatch, text: name.clone() });
    }
    if sources.len() > 1 {
        for (source, fill) in sources.iter().zip(FILLS) {
            let swatch = Swatch::LineWithMarker { index: 0, colour: GREY, fill };
            entries.push(Entry { swatch, text: source.short.clone() });
        }
    }
    entries.push(Entry { swatch: Swatch::Bar(style::GRID), text: "10th to 90th percentile of calls".to_string() });
    entries
}
