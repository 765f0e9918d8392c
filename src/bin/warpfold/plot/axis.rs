//! Axes: ranges, ticks, and the frame of a panel with its grid.

use super::scene::{Align, Font, Point, Rect, Scene};
use super::style::{self, BLACK, GREY, GRID};

#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    is_log: bool,
    /// Places and what is written there.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to something round above `max`.
    pub fn linear(max: f64) -> Axis {
        let step = round_step(max / 5.0);
        // Room above the highest point.
        let high = (max * 1.06 / step).ceil() * step;
        let count = (high / step).round() as usize;
        let ticks = (0..=count).map(|index| index as f64 * step).map(|value| (value, number(value))).collect();
        Axis { low: 0.0, high, is_log: false, ticks }
    }

    /// A logarithmic one, with ticks at powers of ten and, where there is room, at two and five times these.
    pub fn log(low: f64, high: f64) -> Axis {
        let decades = (high / low).log10();
        let multiples: &[f64] = match decades {
            ..3.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let values =
            (first..=last).flat_map(|power| multiples.iter().map(move |multiple| multiple * 10f64.powi(power)));
        let ticks = values.filter(|value| (low..=high).contains(value)).map(|value| (value, number(value))).collect();
        Axis { low, high, is_log: true, ticks }
    }

    /// A logarithmic one with ticks at these sizes alone, and some room on either side.
    pub fn sizes(sizes: &[f64]) -> Axis {
        let low = sizes.iter().copied().fold(f64::INFINITY, f64::min);
        let high = sizes.iter().copied().fold(0.0, f64::max);
        // A single size stands in the middle.
        let margin = (high / low).powf(0.06).max(1.2);
        let mut values = sizes.to_vec();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let ticks = values.into_iter().map(|value| (value, number(value))).collect();
        Axis { low: low / margin, high: high * margin, is_log: true, ticks }
    }

    /// Where on the axis a value lies: 0 at its beginning, 1 at its end.
    pub fn place(&self, value: f64) -> f64 {
        if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Leaves out ticks whose text would come too close to the one before it, of those `pixels` on the axis.
    fn thinned(&self, pixels: f64, font: Font) -> Vec<&(f64, String)> {
        let mut kept: Vec<&(f64, String)> = Vec::new();
        let mut end = f64::NEG_INFINITY;
        for tick in &self.ticks {
            let (middle, half) = (self.place(tick.0) * pixels, font.width(&tick.1) / 2.0);
            if middle - half >= end + 6.0 {
                end = middle + half;
                kept.push(tick);
            }
        }
        kept
    }
}

/// 1, 2, or 5 times a power of ten: the next one that is no smaller.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let multiple = [1.0, 2.0, 5.0, 10.0].into_iter().find(|multiple| multiple * power >= least * 0.999).unwrap_or(10.0);
    multiple * power
}

/// A tick's number, without zeros that say nothing.
pub fn number(value: f64) -> String {
    if value == 0.0 || value.abs() >= 1.0 {
        // Steps of 2.5 do not occur, but rates between 1 and 10 may stand in labels.
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        let digits = (1.0 - value.abs().log10().floor()) as usize;
        format!("{value:.digits$}").trim_end_matches('0').to_string()
    }
}

/// A rate for people: three digits.
pub fn rate(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => number(value),
    }
}

/// A panel: where it is, and its axes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub rect: Rect,
    pub x: Axis,
    pub y: Axis,
}

impl Frame {
    pub fn at(&self, x: f64, y: f64) -> Point {
        Point {
            x: self.rect.left + self.x.place(x) * self.rect.width(),
            y: self.rect.bottom - self.y.place(y) * self.rect.height(),
        }
    }

    /// Draws grid, ticks and their numbers, and what the axes show.
    pub fn draw(&self, scene: &mut Scene, x_title: &str, y_title: &str) {
        let (rect, font) = (self.rect, Font::of(style::TEXT));
        for (value, _) in &self.y.ticks {
            let y = self.at(self.x.low, *value).y;
            scene.line(vec![Point { x: rect.left, y }, Point { x: rect.right, y }], GRID, 1.0);
        }
        for (value, _) in &self.x.ticks {
            let x = self.at(*value, self.y.low).x;
            scene.line(vec![Point { x, y: rect.top }, Point { x, y: rect.bottom }], GRID, 1.0);
        }
        let mut widest = 0.0f64;
        for (value, text) in &self.y.ticks {
            let y = self.at(self.x.low, *value).y;
            widest = widest.max(font.width(text));
            scene.text(Point { x: rect.left - 7.0, y }, text, font, Align::Right, BLACK);
        }
        for (value, text) in self.x.thinned(rect.width(), font) {
            let x = self.at(*value, self.y.low).x;
            scene.line(vec![Point { x, y: rect.bottom }, Point { x, y: rect.bottom + 4.0 }], GREY, 1.0);
            scene.text(Point { x, y: rect.bottom + 14.0 }, text, font, Align::Centre, BLACK);
        }
        let corner = |x, y| Point { x, y };
        let axes = vec![corner(rect.left, rect.top), corner(rect.left, rect.bottom), corner(rect.right, rect.bottom)];
        scene.line(axes, GREY, 1.0);
        let middle = (rect.left + rect.right) / 2.0;
        scene.text(Point { x: middle, y: rect.bottom + 34.0 }, x_title, font, Align::Centre, BLACK);
        if !y_title.is_empty() {
            let x = rect.left - 7.0 - widest - 16.0;
            scene.upward_text(Point { x, y: (rect.top + rect.bottom) / 2.0 }, y_title, font, BLACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_above_the_greatest_value() {
        for max in [0.037, 1.0, 9.99, 10.0, 114.1, 187.2, 801.4, 3003.4] {
            let axis = Axis::linear(max);
            assert_eq!(axis.low, 0.0);
            assert!(axis.high >= max * 1.05 && axis.high <= max * 1.5, "{max}: {axis:?}");
            assert!((4..=10).contains(&axis.ticks.len()), "{max}: {axis:?}");
        }
        assert_eq!(texts(&Axis::linear(187.0)), ["0", "50", "100", "150", "200"]);
        assert_eq!(texts(&Axis::linear(0.9)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }

    #[test]
    fn a_logarithmic_axis_has_the_ticks_of_its_range() {
        assert_eq!(texts(&Axis::log(3.0, 120.0)), ["5", "10", "20", "50", "100"]);
        assert_eq!(texts(&Axis::log(0.05, 2e4)), ["0.1", "1", "10", "100", "1000", "10000"]);
        let axis = Axis::log(0.5, 50.0);
        assert_eq!((axis.place(0.5), axis.place(50.0)), (0.0, 1.0));
        assert!((axis.place(5.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn sizes_are_the_ticks_and_lie_inside() {
        let axis = Axis::sizes(&[4096.0, 512.0, 1024.0, 512.0]);
        assert_eq!(texts(&axis), ["512", "1024", "4096"]);
        assert!(axis.place(512.0) > 0.02 && axis.place(4096.0) < 0.98);
        let single = Axis::sizes(&[2048.0]);
        assert!((single.place(2048.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn ticks_that_would_touch_are_left_out() {
        let axis = Axis::sizes(&[1000.0, 1001.0, 100_000.0]);
        let kept: Vec<f64> = axis.thinned(400.0, Font::of(12.0)).into_iter().map(|tick| tick.0).collect();
        assert_eq!(kept, [1000.0, 100_000.0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.02, 0.5, 1.0, 2.5, 20.0, 16384.0].map(number),
            ["0", "0.02", "0.5", "1", "2.5", "20", "16384"]
        );
        assert_eq!([0.37, 5.198, 11.42, 114.1].map(rate), ["0.37", "5.20", "11.4", "114"]);
    }
}
