//! What moves memory and little else: rates as bars, against the copy that the machine can do.

use super::axis::{Axis, Frame, rate};
use super::page::{self, Entry, MARGIN, Swatch};
use super::record::{Kind, Line, Source};
use super::scene::{Align, Font, Point, Rect, Scene};
use super::style::{self, BLACK, FILLS, colour};

const WIDTH: f64 = 960.0;
const BAR: f64 = 13.0;
/// Between the bars of one problem and the next.
const GAP: f64 = 7.0;

/// A problem, and what each device reached there.
struct Group<'a> {
    name: String,
    lines: Vec<(usize, &'a Line)>,
}

/// The picture, if there are operations that are counted in bytes and have no intensity.
pub fn picture(sources: &[Source]) -> Option<Scene> {
    let groups = groups(sources);
    if groups.is_empty() {
        return None;
    }
    let copies: Vec<(usize, &Line)> = all(sources)
        .filter(|(_, line)| line.kind == Kind::Ceiling && line.unit().is_bytes() && line.operation == "copy")
        .collect();
    let entries = entries(sources, &copies);
    let font = Font::of(style::TEXT);
    let widest = groups.iter().map(|group| font.width(&group.name)).fold(0.0, f64::max);

    let num_bars: usize = groups.iter().map(|group| group.lines.len()).sum();
    let top = page::head_height(sources, WIDTH) + 10.0;
    let bottom = top + GAP + num_bars as f64 * BAR + groups.len() as f64 * GAP;
    let legend_top = bottom + 52.0;
    let mut scene = Scene::new(WIDTH, legend_top + page::legend_height(&entries, WIDTH) + 14.0);
    page::head(&mut scene, "Bytes moved a second by row operations, beside a copy", sources, false);

    let lines = || groups.iter().flat_map(|group| &group.lines).map(|(_, line)| *line);
    let highest = lines().map(Line::giga).chain(lines().filter_map(Line::ceiling_giga));
    let max = highest.chain(copies.iter().map(|(_, line)| line.giga())).fold(0.0, f64::max);
    let left = MARGIN + widest + 10.0;
    // The vertical axis only places bars; it has no ticks.
    let mut y = Axis::linear(1.0);
    y.ticks.clear();
    // Room for the number behind the longest bar.
    let frame = Frame { rect: Rect { left, top, right: WIDTH - MARGIN - 90.0, bottom }, x: Axis::linear(max), y };
    frame.draw(&mut scene, "rate (GB/s read and written)", "");
    let place = |giga: f64| frame.at(giga, 0.0).x;
    for (source, copy) in &copies {
        let x = place(copy.giga());
        let ends = [Point { x, y: top }, Point { x, y: bottom }];
        scene.dashed(&ends, colour(*source), 1.4, Some((6.0, 4.0)));
    }
    let mut upper = top + GAP;
    for group in &groups {
        let height = group.lines.len() as f64 * BAR;
        let middle = Point { x: left - 7.0, y: upper + height / 2.0 };
        scene.text(middle, group.name.as_str(), font, Align::Right, BLACK);
        for (source, line) in &group.lines {
            bar(
                &mut scene,
                line,
                *source,
                Rect { left, right: place(line.giga()), top: upper, bottom: upper + BAR - 1.0 },
                &place,
            );
            upper += BAR;
        }
        upper += GAP;
    }
    page::legend(&mut scene, &entries, legend_top);
    Some(scene)
}

fn all(sources: &[Source]) -> impl Iterator<Item = (usize, &Line)> {
    sources.iter().enumerate().flat_map(|(index, source)| source.lines.iter().map(move |line| (index, line)))
}

fn groups(sources: &[Source]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    // The types of a problem stand together, in the order in which problems come.
    let mut problems: Vec<(&str, &str)> = Vec::new();
    for (source, line) in all(sources) {
        // The sizes of a sweep have pictures of their own.
        if line.kind == Kind::Operation && line.unit().is_bytes() && line.intensity.is_none() && line.series.is_empty()
        {
            let name = format!("{}, {}, {}", line.operation, line.short_problem(), line.dtype);
            let problem = (line.operation.as_str(), line.short_problem());
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.lines.push((source, line)),
                None => groups.push(Group { name, lines: vec![(source, line)] }),
            }
        }
    }
    groups.sort_by_key(|group| {
        let line = group.lines[0].1;
        problems.iter().position(|problem| *problem == (line.operation.as_str(), line.short_problem()))
    });
    groups
}

fn bar(scene: &mut Scene, line: &Line, source: usize, rect: Rect, place: &impl Fn(f64) -> f64) {
    scene.rect(rect, colour(source), 0.85);
    let y = (rect.top + rect.bottom) / 2.0;
    // The spread, and the ceiling that this problem is held to.
    let (slow, fast) = (line.giga_at(line.p90_ms), line.giga_at(line.p10_ms));
    scene.line(vec![Point { x: place(slow), y }, Point { x: place(fast), y }], BLACK, 1.0);
    let mut end = rect.right.max(place(fast));
    if let Some(ceiling) = line.ceiling_giga() {
        let x = place(ceiling);
        scene.line(vec![Point { x, y: rect.top - 1.0 }, Point { x, y: rect.bottom + 1.0 }], BLACK, 2.0);
        // The number stands behind the mark where it would cross it.
        if x > end - 4.0 && x < end + 110.0 {
            end = x;
        }
    }
    let share = line.fraction.map(|fraction| format!(" ({:.0} %)", fraction * 100.0)).unwrap_or_default();
    let text = format!("{}{share}", rate(line.giga()));
    scene.text(Point { x: end + 6.0, y }, text, Font::of(style::SMALL), Align::Left, BLACK);
}

fn entries(sources: &[Source], copies: &[(usize, &Line)]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, source) in sources.iter().enumerate().take(FILLS.len()) {
        let text =
            if sources.len() > 1 { source.short.clone() } else { "median rate (share of its ceiling)".to_string() };
        entries.push(Entry { swatch: Swatch::Bar(colour(index)), text });
    }
    for (source, copy) in copies {
        let swatch = Swatch::Line { colour: colour(*source), dash: Some((6.0, 4.0)), width: 1.4 };
        entries.push(Entry { swatch, text: format!("copy{}: {} GB/s", sources[*source].number, rate(copy.giga())) });
    }
    entries.push(Entry { swatch: Swatch::Tick, text: "ceiling of that problem (a copy of its size)".to_string() });
    let thin = Swatch::Line { colour: BLACK, dash: None, width: 1.0 };
    entries.push(Entry { swatch: thin, text: "10th to 90th percentile of calls".to_string() });
    entries
}
