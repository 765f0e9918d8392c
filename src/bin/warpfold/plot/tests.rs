//! What the pictures of a whole record must be: complete, legible, the same every time.

use super::record::{Kind, Record, Source};
use super::scene::{Rect, Scene, Shape};
use super::*;

fn records(count: usize) -> Vec<Source> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bench_record.csv");
    let record = Record::read(&path).unwrap();
    let files: Vec<Record> = (0..count)
        .map(|index| {
            let mut copy = record.clone();
            for line in &mut copy.lines {
                // Other machines are slower.
                line.device = format!("{} number {index}", line.device);
                line.rate = line.rate.map(|rate| rate * 0.8f64.powi(index as i32));
            }
            copy
        })
        .collect();
    record::sources(&files)
}

fn markers(scene: &Scene) -> usize {
    // Each marker is a disc or a polygon with its outline; what is outlined are circles and closed lines.
    let closed = |shape: &&Shape| match shape {
        Shape::Circle { .. } => true,
        Shape::Line { points, .. } => points.len() > 3 && points.first() == points.last(),
        _ => false,
    };
    scene.shapes.iter().filter(closed).count()
}

#[test]
fn every_operation_of_the_record_is_drawn() {
    let sources = records(1);
    let operations: Vec<_> = sources[0].lines.iter().filter(|line| line.kind == Kind::Operation).collect();
    let pictures = pictures(&sources);
    let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["roofline", "bandwidth", "attention_forward_over_size", "softmax_forward_over_size"]);
    let texts = |index: usize| pictures[index].1.text_boxes().into_iter().map(|(text, _)| text).collect::<Vec<_>>();

    // A marker for each point, and two in the legend, for the operations.
    let points: Vec<_> = operations.iter().filter(|line| line.intensity.is_some()).collect();
    assert_eq!(markers(&pictures[0].1), points.len() + 2);
    for line in points.iter().filter(|line| line.series.is_empty()) {
        assert!(texts(0).iter().any(|text| text == line.short_problem()), "no label for {}", line.problem);
    }
    let bars = texts(1);
    for line in operations.iter().filter(|line| line.intensity.is_none() && line.series.is_empty()) {
        let name = format!("{}, {}, {}", line.operation, line.short_problem(), line.dtype);
        assert!(bars.contains(&name), "no bar for {name}");
    }
    for (index, operation) in [(2, "attention forward"), (3, "softmax forward")] {
        let swept = operations.iter().filter(|line| !line.series.is_empty() && line.operation == operation);
        let series =
            record::distinct(operations.iter().filter(|line| line.operation == operation).map(|line| &line.series));
        let in_legend = if operation == "attention forward" { 4 } else { series.len() - 1 };
        assert_eq!(markers(&pictures[index].1), swept.count() + in_legend, "{operation}");
    }
}

#[test]
fn text_is_inside_the_picture_and_never_over_other_text() {
    for count in 1..=3 {
        for (name, scene) in pictures(&records(count)) {
            let page = Rect { left: 0.0, top: 0.0, right: scene.width, bottom: scene.height };
            let boxes = scene.text_boxes();
            for (index, (text, rect)) in boxes.iter().enumerate() {
                assert!(page.contains(rect), "{name}: \"{text}\" at {rect:?} is cut off");
                for (other, other_rect) in &boxes[index + 1..] {
                    assert!(
                        !rect.overlaps(other_rect),
                        "{name} of {count}: \"{text}\" {rect:?} over \"{other}\" {other_rect:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    let svgs = || pictures(&records(2)).iter().map(|(_, scene)| scene.svg().unwrap()).collect::<Vec<_>>();
    assert_eq!(svgs(), svgs());
}

#[test]
fn a_device_name_cannot_break_the_svg() {
    let mut sources = records(1);
    sources[0].label = "R&D <GPU> \"one\"".to_string();
    let svg = pictures(&sources)[0].1.svg().unwrap();
    assert!(svg.contains("R&amp;D &lt;GPU&gt; &quot;one&quot;") && !svg.contains("<GPU>"));
}

#[test]
fn points_above_their_roof_and_records_without_ceilings_are_drawn_too() {
    let mut sources = records(1);
    sources[0].lines.retain(|line| line.kind != Kind::Ceiling);
    for line in &mut sources[0].lines {
        (line.ceiling, line.fraction, line.p10_ms, line.p90_ms) = (None, None, None, None);
    }
    let scenes = pictures(&sources);
    assert_eq!(scenes.len(), 4);
    for (name, scene) in &scenes {
        let svg = scene.svg().unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        let on_page =
            |point: &scene::Point| (0.0..=scene.width).contains(&point.x) && (0.0..=scene.height).contains(&point.y);
        for shape in &scene.shapes {
            if let Shape::Line { points, .. } | Shape::Polygon { points, .. } = shape {
                assert!(points.iter().all(on_page), "{name}: {points:?}");
            }
        }
    }
}
